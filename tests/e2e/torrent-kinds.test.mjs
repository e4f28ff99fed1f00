// Hybrid torrents (BEP 52) are met by their version 1 hash, those of version 2 alone are refused in words, and private ones
// (BEP 27) stay with their tracker.

import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { noise, sha256 } from './testkit/content.mjs'
import { trial } from './testkit/lab.mjs'
import { run } from './testkit/swarmgate.mjs'
import { within } from './testkit/wait.mjs'
import { download } from './testkit/webtorrent.mjs'

const OPEN = { SWARMGATE__BRIDGE__POLICY: 'open', SWARMGATE__GOSSIP__LOCAL_DISCOVERY: 'false' }

trial('a page gets a hybrid torrent by its version 1 hash', async (lab) => {
  const dht = await lab.dht()
  const seeder = await lab.libtorrent(dht)
  const file = join(await lab.directory(), 'hybrid.bin')
  await writeFile(file, noise(1_000_000, 5))
  const { info_hash: infoHash } = await seeder.seed(file, 1 << 16, true)
  const announced = dht.announced(infoHash)
  await seeder.announce(infoHash)
  await announced
  const server = await lab.server({ dht, env: OPEN })
  const site = await lab.webTorrentSite()
  const page = await site.open(await lab.browser())
  const link = `magnet:?xt=urn:btih:${infoHash}&tr=${encodeURIComponent(server.socket)}`
  const got = await within(60, 'download by the page', download(page, link))
  assert.equal(got.sha256, sha256(noise(1_000_000, 5)))
})

trial('a torrent of version 2 alone is refused in words', async () => {
  const { code, stderr } = await run(['get', `magnet:?xt=urn:btmh:1220${'ab'.repeat(32)}`])
  assert.equal(code, 2)
  assert.match(stderr, /v2-only torrent, which is not supported/)
})

trial('a private torrent is told to its tracker and to nobody else', async (lab) => {
  const dht = await lab.dht()
  const server = await lab.server({ dht, env: OPEN })
  const site = await lab.webTorrentSite()
  const browser = await lab.browser()
  const [seeder, reader] = [await site.open(browser), await site.open(browser)]
  /** @type {Set<string>} */
  const told = new Set()
  for (const { node } of dht.nodes) {
    node.on('announce', (/** @type {any} */ _, /** @type {Uint8Array} */ hash) =>
      told.add(Buffer.from(hash).toString('hex')),
    )
  }
  const seed = (/** @type {string} */ name, /** @type {boolean} */ isPrivate) =>
    seeder.evaluate(
      async ({ name, isPrivate, tracker }) => {
        const { client } = /** @type {any} */ (window)
        const file = new File([new Uint8Array(300_000).fill(name.length)], name)
        const torrent = client.seed(file, { announce: [tracker], private: isPrivate })
        await new Promise((resolve) => torrent.once('trackerAnnounce', resolve))
        return { infoHash: torrent.infoHash, magnet: torrent.magnetURI }
      },
      { name, isPrivate, tracker: server.socket },
    )
  const hidden = await seed('private.bin', true)
  const got = await within(60, 'download of what is private', download(reader, hidden.magnet))
  assert.equal(got.size, 300_000)
  // The public one is treated alike but for that, and later: when the DHT has been told of it, it would have been of the other.
  const open = await seed('public.bin', false)
  await dht.announced(open.infoHash)
  assert.ok(told.has(open.infoHash) && !told.has(hidden.infoHash), [...told].join())
})
