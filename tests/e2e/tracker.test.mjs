// Stock clients use the server as their tracker.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import Tracker from 'bittorrent-tracker'
import { trial } from './testkit/lab.mjs'
import { download, seed } from './testkit/webtorrent.mjs'
import { once, within } from './testkit/wait.mjs'

trial('two pages with WebTorrent exchange a file', async (lab) => {
  const server = await lab.server()
  const browser = await lab.browser()
  const site = await lab.webTorrentSite()
  const [author, reader] = await Promise.all([site.open(browser), site.open(browser)])
  const text = 'The tide comes in. '.repeat(20_000)
  const magnet = await within(
    30,
    'announce of the author',
    seed(author, { name: 'tides.txt', text, tracker: server.socket }),
  )
  assert.equal(await within(60, 'download of the reader', download(reader, magnet)), text)
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

/**
 * @param {import('./testkit/lab.mjs').Lab} lab
 * @param {{ announce: string, infoHash: Buffer, port: number }} options
 */
function trackerClient(lab, { announce, infoHash, port }) {
  const rtcConfig = { iceServers: [] } // everybody is on this machine
  const client = new Tracker({ infoHash, peerId: randomBytes(20), announce: [announce], port, rtcConfig })
  client.on('error', (/** @type {Error} */ error) => lab.note(`tracker client: ${error.message}`))
  client.on('warning', (/** @type {Error} */ error) => lab.note(`tracker client: ${error.message}`))
  return lab.keep(client, { stop: async () => client.destroy() })
}
