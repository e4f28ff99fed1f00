// Stock clients use the server as their tracker.

import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import wrtc from '@roamhq/wrtc'
import Tracker from 'bittorrent-tracker'
import { percent } from './testkit/canary.mjs'
import { trial } from './testkit/lab.mjs'
import { Socket } from './testkit/socket.mjs'
import { download, seed } from './testkit/webtorrent.mjs'
import { eventually, once, within } from './testkit/wait.mjs'

const { RTCPeerConnection } = wrtc

/** For announces over WebSocket that nobody need answer: the client takes five seconds to make its offers. */
const NO_OFFERS = { numwant: 0 }

trial('two pages with WebTorrent exchange 50 MB', async (lab) => {
  const server = await lab.server()
  const browser = await lab.browser()
  const site = await lab.webTorrentSite()
  const [author, reader] = await Promise.all([site.open(browser), site.open(browser)])
  const [text, times] = [randomBytes(500_000).toString('hex'), 50]
  const magnet = await within(
    60,
    'announce of the author',
    seed(author, { name: 'tides.txt', text, times, tracker: server.socket }),
  )
  const expected = { size: 50_000_000, sha256: createHash('sha256').update(text.repeat(times)).digest('hex') }
  assert.deepEqual(await within(150, 'download of the reader', download(reader, magnet)), expected)
})

for (const scheme of ['ws', 'http', 'udp']) {
  trial(`a stock tracker client over ${scheme} announces, scrapes and leaves`, async (lab) => {
    const server = await lab.server()
    const announce = `${scheme}://${scheme === 'udp' ? server.ready.udp_tracker : server.ready.web}/announce`
    const infoHash = randomBytes(20)
    const client = trackerClient(lab, { announce, infoHash, port: 6001 })

    client.start({ left: 10 })
    const [first] = await within(20, 'reply to the announce', once(client, 'update'))
    assert.deepEqual([first.complete, first.incomplete], [0, 1])
    if (scheme !== 'udp') assert.ok(first.interval >= 60) // the client keeps that of UDP to itself

    client.complete({ left: 0 })
    const [second] = await within(20, 'reply to the completion', once(client, 'update'))
    assert.deepEqual([second.complete, second.incomplete], [1, 0])

    client.scrape()
    const [scraped] = await within(20, 'reply to the scrape', once(client, 'scrape'))
    assert.deepEqual([scraped.complete, scraped.incomplete, scraped.downloaded], [1, 0, 1])

    const watcher = trackerClient(lab, { announce, infoHash, port: 6002 })
    client.stop()
    await within(20, 'reply to the stop', once(client, 'update'))
    watcher.start({ left: 10 })
    const [after] = await within(20, 'reply to the watcher', once(watcher, 'update'))
    assert.deepEqual([after.complete, after.incomplete], [0, 1], 'the first peer is gone')
  })
}

trial('a peer over HTTP is told of the other', async (lab) => {
  const server = await lab.server()
  const announce = `http://${server.ready.web}/announce`
  const infoHash = randomBytes(20)
  const seeder = trackerClient(lab, { announce, infoHash, port: 6001 })
  seeder.start({ left: 0 })
  await within(20, 'reply to the seeder', once(seeder, 'update'))
  const leecher = trackerClient(lab, { announce, infoHash, port: 6002 })
  const peer = once(leecher, 'peer', (address) => address.endsWith(':6001'))
  leecher.start({ left: 10 })
  assert.deepEqual(await within(20, 'peer', peer), ['127.0.0.1:6001'])
})

trial('two stock clients over WebSocket are introduced: offer, answer, data channel', async (lab) => {
  const server = await lab.server()
  const infoHash = randomBytes(20)
  const first = trackerClient(lab, { announce: server.socket, infoHash, port: 6001 })
  first.start({ left: 0 })
  await within(20, 'reply to the first', once(first, 'update'))
  const second = trackerClient(lab, { announce: server.socket, infoHash, port: 6002 })
  const meetings = Promise.all([first, second].map((client) => once(client, 'peer')))
  second.start({ left: 10 })
  const [[one], [other]] = /** @type {[any[], any[]]} */ (await within(60, 'introduction', meetings))
  lab.keep(one, { stop: async () => one.destroy() })
  lab.keep(other, { stop: async () => other.destroy() })
  const heard = once(other, 'data')
  const say = () => one.send('ahoy')
  if (one.connected) say()
  else one.once('connect', say)
  const [word] = await within(60, 'word through the data channel', heard)
  assert.equal(Buffer.from(word).toString(), 'ahoy')
})

for (const scheme of ['ws', 'http', 'udp']) {
  trial(`a stock tracker client over ${scheme} scrapes several torrents, vanishes and comes back`, async (lab) => {
    const server = await lab.server()
    const announce = `${scheme}://${scheme === 'udp' ? server.ready.udp_tracker : server.ready.web}/announce`
    // In ASCII: over HTTP this client reads the keys of a scrape as UTF-8, and mixes up all others.
    const hashes = [1, 2, 3].map(() => Buffer.from(randomBytes(10).toString('hex')))
    const [seeded, wanted] = /** @type {[Buffer, Buffer]} */ (/** @type {unknown} */ (hashes))
    const seeder = trackerClient(lab, { announce, infoHash: seeded, port: 6001 })
    seeder.start({ left: 0, ...NO_OFFERS })
    await within(20, 'reply to the seeder', once(seeder, 'update'))
    const peerId = randomBytes(20)
    const before = trackerClient(lab, { announce, infoHash: wanted, port: 6002, peerId })
    before.start({ left: 10, ...NO_OFFERS })
    await within(20, 'reply to the leecher', once(before, 'update'))

    const scraped = await within(20, 'scrape of three', scrape(announce, hashes))
    const counts = hashes.map((hash) => scraped[hash.toString('hex')]).map((of) => [of?.complete, of?.incomplete])
    assert.deepEqual(counts, [
      [1, 0],
      [0, 1],
      [0, 0],
    ])

    before.destroy() // without a goodbye
    const after = trackerClient(lab, { announce, infoHash: wanted, port: 6002, peerId })
    after.start({ left: 10, ...NO_OFFERS })
    const [update] = await within(20, 'reply to the one that came back', once(after, 'update'))
    assert.deepEqual([update.complete, update.incomplete], [0, 1], 'it is counted once')
  })
}

trial('a stock tracker client over ws finds a server again that was restarted', async (lab) => {
  const server = await lab.server()
  const infoHash = randomBytes(20)
  const client = trackerClient(lab, { announce: server.socket, infoHash, port: 6001 })
  client.start({ left: 10, ...NO_OFFERS })
  await within(20, 'reply to the announce', once(client, 'update'))
  // It tries again after ten seconds and up to five minutes more, as chance has it: here, none.
  const { random } = Math
  Math.random = () => 0
  lab.keep(client, { stop: async () => void (Math.random = random) })
  await server.stop()
  const again = once(client, 'update')
  const restarted = await lab.server({ env: { SWARMGATE__WEB__LISTEN: server.ready.web } })
  const [update] = await within(90, 'announce to the restarted server', again)
  assert.deepEqual([update.complete, update.incomplete], [0, 1])
  const scraped = await fetch(`http://${restarted.ready.web}/scrape?info_hash=${percent(infoHash)}`)
  assert.match(Buffer.from(await scraped.arrayBuffer()).toString('latin1'), /incompletei1e/)
})

trial('a stock client and a peer with another WebRTC stack are introduced', async (lab) => {
  const server = await lab.server()
  const infoHash = randomBytes(20)
  const client = trackerClient(lab, { announce: server.socket, infoHash, port: 6001 })
  client.start({ left: 0, ...NO_OFFERS })
  await within(20, 'reply to the stock client', once(client, 'update'))

  const peer = new RTCPeerConnection({ iceServers: [] })
  lab.keep(peer, { stop: async () => peer.close() })
  const channel = peer.createDataChannel('ahoy')
  await peer.setLocalDescription(await peer.createOffer())
  await within(10, 'end of ICE gathering', gathered(peer))
  const socket = await Socket.open(server.socket)
  lab.keep(socket, { stop: () => socket.close() })
  const introduced = once(client, 'peer')
  const [info_hash, peer_id, offer_id] = [infoHash, randomBytes(20), randomBytes(20)].map((id) => id.toString('latin1'))
  const offers = [{ offer_id, offer: { type: 'offer', sdp: peer.localDescription?.sdp } }]
  const announce = { action: 'announce', info_hash, peer_id, numwant: 1, left: 10, offers }
  const { answer } = await socket.reply(announce, (message) => message.offer_id === offer_id && message.answer)
  const open = new Promise((resolve) => channel.addEventListener('open', resolve))
  await peer.setRemoteDescription(answer)

  const [other] = await within(20, 'introduction', introduced)
  lab.keep(other, { stop: async () => other.destroy() })
  const heard = once(other, 'data')
  await within(20, 'open data channel', open)
  channel.send('ahoy')
  const [word] = await within(20, 'word through the data channel', heard)
  assert.equal(Buffer.from(word).toString(), 'ahoy')
})

trial('a private tracker serves those who have a passkey, and denied torrents nobody', async (lab) => {
  const [passkey, infoHash, denied] = [randomBytes(16).toString('hex'), randomBytes(20), randomBytes(20)]
  const [passkeys, list] = [join(await lab.directory(), 'passkeys'), join(await lab.directory(), 'denied')]
  await writeFile(passkeys, `${passkey} # for the club\n`)
  await writeFile(list, '# nothing yet\n')
  const env = { SWARMGATE__TRACKER__PASSKEYS_FILE: passkeys, SWARMGATE__TRACKER__DENIED_FILE: list }
  const server = await lab.server({ env })
  for (const [scheme, path] of [
    ['http', `${passkey}/announce`],
    ['http', `announce?passkey=${passkey}`],
    ['ws', `${passkey}/announce`],
  ]) {
    const announce = `${scheme}://${server.ready.web}/${path}`
    const member = trackerClient(lab, { announce, infoHash, port: 6001 })
    member.start({ left: 0, ...NO_OFFERS })
    await within(20, `reply over ${announce}`, once(member, 'update'))
  }
  const stranger = trackerClient(lab, { announce: `http://${server.ready.web}/announce`, infoHash, port: 6003 })
  const refused = once(stranger, 'warning')
  stranger.start({ left: 0 })
  assert.match((await within(20, 'refusal', refused))[0].message, /private/)
  const knocking = Socket.open(server.socket)
  await assert.rejects(knocking, /403/)

  // The file changes under the running server; a signal has it read at once.
  await writeFile(list, denied.toString('hex'))
  server.child.kill('SIGHUP')
  await eventually(20, 'refusal of a denied torrent', async () => {
    const query = `info_hash=${percent(denied)}&peer_id=${percent(randomBytes(20))}&port=6004&left=1&passkey=${passkey}`
    const answer = await fetch(`http://${server.ready.web}/announce?${query}`)
    return (await answer.text()).includes('does not serve this torrent') || null
  })
})

/** @param {RTCPeerConnection} peer @returns {Promise<void>} */
function gathered(peer) {
  return new Promise((resolve) => {
    const look = () => peer.iceGatheringState === 'complete' && resolve()
    peer.addEventListener('icegatheringstatechange', look)
    look()
  })
}

/**
 * @param {string} announce
 * @param {Buffer[]} infoHash
 * @returns {Promise<Record<string, { complete: number, incomplete: number }>>} by info hash
 */
function scrape(announce, infoHash) {
  return new Promise((resolve, reject) => {
    const done = (/** @type {Error | null} */ error, /** @type {any} */ data) => (error ? reject(error) : resolve(data))
    Tracker.scrape({ announce: [announce], infoHash }, done)
  })
}

/**
 * @param {import('./testkit/lab.mjs').Lab} lab
 * @param {{ announce: string, infoHash: Buffer, port: number, peerId?: Buffer }} options
 */
function trackerClient(lab, { announce, infoHash, port, peerId = randomBytes(20) }) {
  const rtcConfig = { iceServers: [] } // everybody is on this machine
  const client = new Tracker({ infoHash, peerId, announce: [announce], port, rtcConfig })
  client.on('error', (/** @type {Error} */ error) => lab.note(`tracker client: ${error.message}`))
  client.on('warning', (/** @type {Error} */ error) => lab.note(`tracker client: ${error.message}`))
  return lab.keep(client, { stop: async () => client.destroy() })
}
