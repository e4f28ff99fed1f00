// A swarm with a side in the browser and a side of native clients, and this server between them.

import assert from 'node:assert/strict'
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { trial } from './testkit/lab.mjs'
import { chance, noise, sha256, sha256OfFile, shuffled, torrentOf } from './testkit/content.mjs'
import { Aria2, NativeClient } from './testkit/native_clients.mjs'
import { Server } from './testkit/swarmgate.mjs'
import { eventually, within } from './testkit/wait.mjs'
import { download, seedNoise, sent } from './testkit/webtorrent.mjs'

const MIB = 1 << 20
const OPEN = { SWARMGATE__BRIDGE__POLICY: 'open', SWARMGATE__GOSSIP__LOCAL_DISCOVERY: 'false' }

trial('what only a page has reaches libtorrent and aria2 by its info hash alone, while it is sent', async (lab) => {
  const dht = await lab.dht()
  const server = await lab.server({ dht, env: OPEN })
  const libtorrent = await lab.libtorrent(dht)
  const site = await lab.webTorrentSite()
  const page = await site.open(await lab.browser())
  const file = { name: 'film.bin', size: 12 * MIB, seed: 7 }
  const digest = sha256(noise(file.size, file.seed))
  const dirs = { libtorrent: await lab.directory(), aria2: await lab.directory() }

  // It sends for five seconds, so that who has bytes before has them from a stream.
  await page.evaluate((rate) => /** @type {any} */ (window).client.throttleUpload(rate), file.size / 5)
  const announced = dht.announced(torrentOf(file.name, noise(file.size, file.seed)).infoHash)
  const infoHash = await seedNoise(page, { ...file, tracker: server.socket })
  await announced
  await libtorrent.download(infoHash, dirs.libtorrent, [])
  const finished = libtorrent.finished(infoHash)
  const aria2 = new Aria2(dirs.aria2, dht.first, infoHash)
  lab.keep(aria2, { stop: () => aria2.stop(), account: () => `aria2\n${aria2.output}` })
  const first = await eventually(20, 'first bytes at libtorrent', async () => {
    const [there, left] = [await libtorrent.downloaded(infoHash), file.size - (await sent(page))]
    return there > 0 ? { there, left } : null
  })
  assert.ok(first.left > 0, `libtorrent had ${first.there} bytes while the page had ${first.left} to send`)

  await within(60, 'download by libtorrent', finished)
  assert.equal(await sha256OfFile(join(dirs.libtorrent, file.name)), digest)
  const control = join(dirs.aria2, `${file.name}.aria2`)
  await eventually(60, 'download by aria2', async () => {
    const gone = await stat(control).then(
      () => false,
      () => true,
    )
    const whole = await stat(join(dirs.aria2, file.name)).then(
      ({ size }) => size === file.size,
      () => false,
    )
    return (gone && whole) || null
  })
  assert.equal(await sha256OfFile(join(dirs.aria2, file.name)), digest)
  assert.ok((await sent(page)) < file.size * 1.5, 'the page sent its file once, not once for each')
})

trial('five pages and five native clients, started in any order, all finish', async (lab) => {
  const server = await lab.server({ env: OPEN })
  const browser = await lab.browser()
  const site = await lab.webTorrentSite()
  const file = { name: 'film.bin', size: 6 * MIB, seed: 11 }
  const bytes = noise(file.size, file.seed)
  const tracker = `http://${server.ready.web}/announce`
  const { infoHash, file: metainfo } = torrentOf(file.name, bytes, tracker)
  const links = [server.socket, tracker].map((url) => `magnet:?xt=urn:btih:${infoHash}&tr=${encodeURIComponent(url)}`)
  const [webLink = '', nativeLink = ''] = links
  const order = Number(process.env['SWARM_SEED'] ?? Date.now() % 100_000)
  lab.note(`SWARM_SEED=${order} repeats the order`)
  const random = chance(order)

  /** @param {string} name */
  const byClient = (name) => async () => {
    const dir = await lab.directory()
    const client = await NativeClient.download(name, dir, { link: nativeLink, metainfo })
    lab.keep(client, { stop: () => client.stop(), account: () => `${name}\n${client.output}` })
    return async () => {
      const path = join(dir, file.name)
      // Files have their whole length from the start with some clients, and another name with others.
      await eventually(90, `download by ${name}`, async () =>
        (await sha256OfFile(path).catch(() => '')) === sha256(bytes) ? true : null,
      )
      return sha256OfFile(path)
    }
  }
  const byLibtorrent = async () => {
    const [peer, dir] = [await lab.libtorrent(), await lab.directory()]
    await peer.download(infoHash, dir, [tracker])
    const finished = peer.finished(infoHash)
    return async () => {
      await within(90, 'download by libtorrent', finished)
      return sha256OfFile(join(dir, file.name))
    }
  }
  const author = async () => {
    const page = await site.open(browser)
    assert.equal(await seedNoise(page, { ...file, tracker: server.socket }), infoHash)
    return async () => sha256(bytes)
  }
  const reader = async () => {
    const page = await site.open(browser)
    const got = download(page, webLink)
    got.catch(() => {}) // told by whoever waits for it
    return async () => (await within(90, 'download by a page', got)).sha256
  }
  const natives = [byLibtorrent, byLibtorrent, ...['aria2', 'transmission', 'qbittorrent'].map(byClient)]
  const starts = shuffled([author, reader, reader, reader, reader, ...natives], random)
  const digests = []
  for (const start of starts) digests.push(await start())
  for (const digest of digests) assert.equal(await digest(), sha256(bytes))
})

trial('the server is killed in the middle and started again: all finish, and nothing is read twice', async (lab) => {
  const dht = await lab.dht()
  const dataDir = await lab.directory()
  const server = await Server.start({ dataDir, bootstrap: [dht.first.address], env: OPEN })
  lab.keep(server, { stop: async () => server.child.kill('SIGKILL'), account: () => `first server\n${server.stderr}` })
  const libtorrent = await lab.libtorrent(dht)
  const site = await lab.webTorrentSite()
  const browser = await lab.browser()
  const [author, reader] = [await site.open(browser), await site.open(browser)]
  const file = { name: 'film.bin', size: 20 * MIB, seed: 13 }
  const bytes = noise(file.size, file.seed)
  const digest = sha256(bytes)
  const dir = await lab.directory()

  const announced = dht.announced(torrentOf(file.name, bytes).infoHash)
  const infoHash = await seedNoise(author, { ...file, tracker: server.socket })
  const got = download(reader, `magnet:?xt=urn:btih:${infoHash}&tr=${encodeURIComponent(server.socket)}`)
  got.catch(() => {}) // told by whoever waits for it
  await announced
  await libtorrent.download(infoHash, dir, [])
  const finished = libtorrent.finished(infoHash)
  await eventually(30, 'a fifth of it at libtorrent', async () =>
    (await libtorrent.downloaded(infoHash)) > file.size / 5 ? true : null,
  )
  // WebTorrent comes back to a lost tracker after ten seconds and, by chance, up to five minutes more: not here.
  for (const page of [author, reader]) await page.evaluate(() => void (Math.random = () => 0.01))
  server.child.kill('SIGKILL')
  await within(10, 'end of the killed server', server.exit)
  const there = await libtorrent.downloaded(infoHash)
  assert.ok(there < file.size, 'it was killed in the middle')

  const { web, dht: dhtAddress, bittorrent, webrtc } = server.ready
  const again = await lab.server({
    dht,
    dataDir,
    env: {
      ...OPEN,
      SWARMGATE__WEB__LISTEN: web,
      SWARMGATE__DHT__LISTEN: dhtAddress,
      SWARMGATE__BITTORRENT__LISTEN: bittorrent,
      SWARMGATE__WEBRTC__LISTEN: webrtc,
    },
  })
  await within(90, 'download by libtorrent', finished)
  assert.equal(await sha256OfFile(join(dir, file.name)), digest)
  assert.equal((await within(90, 'download by the page', got)).sha256, digest)
  const checks = /bridge_checks_total\{kind="(\w+)"\} (\d+)/.exec(await again.metrics())
  assert.deepEqual(checks?.slice(1), ['record', '1'])
})
