// The same transfer again and again, each with a torrent and a page of its own, in both directions: whether one ever gets
// stuck. It ends with an error at the first that does, and says where it hung.
//
//   node benches/again.mjs [--runs 50] [--size 4] [--only down,up] [--fresh]
//
// down: libtorrent to a page. up: a page to libtorrent, from the info hash alone. --fresh: a new server for each run.

import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { noise, sha256, sha256OfFile } from '../tests/e2e/testkit/content.mjs'
import { Lab } from '../tests/e2e/testkit/lab.mjs'
import { eventually, within } from '../tests/e2e/testkit/wait.mjs'
import { download, seedNoise } from '../tests/e2e/testkit/webtorrent.mjs'
import { spread } from './kit.mjs'

const { values } = parseArgs({
  options: {
    runs: { type: 'string', default: '50' },
    size: { type: 'string', default: '4' },
    only: { type: 'string', default: 'down,up' },
    fresh: { type: 'boolean', default: false },
  },
})
const SIZE = Number(values.size) * 1_000_000
const NAME = 'content.bin'

/** Nothing here takes a tenth of it. */
const STUCK = 90

/** @typedef {{ client: import('../tests/e2e/testkit/libtorrent.mjs').Libtorrent, dht: import('../tests/e2e/testkit/dht.mjs').LocalDht, server: import('../tests/e2e/testkit/swarmgate.mjs').Server, browser: import('../tests/e2e/testkit/chromium.mjs').Browser, site: import('../tests/e2e/testkit/webtorrent.mjs').WebTorrentSite }} Setting */

/** @type {Record<string, (lab: Lab, setting: Setting, run: number) => Promise<void>>} */
const DIRECTIONS = { down, up }

for (const direction of values.only.split(',')) {
  const transfer = DIRECTIONS[direction]
  if (!transfer) throw new Error(`no direction is called ${direction}`)
  /** @type {number[]} */
  const seconds = []
  const whole = new Lab()
  try {
    let setting = values.fresh ? undefined : await prepare(whole)
    for (let run = 1; run <= Number(values.runs); run++) {
      const lab = new Lab()
      if (values.fresh) setting = await prepare(lab)
      const begun = performance.now()
      try {
        if (setting) await transfer(lab, setting, run)
      } catch (error) {
        console.log(`${direction}: stuck in run ${run}`)
        console.log(whole.account(), lab.account(), await setting?.server.metrics())
        throw error
      } finally {
        await lab.close()
      }
      seconds.push((performance.now() - begun) / 1000)
    }
  } finally {
    await whole.close()
  }
  const { median, least, most } = spread(seconds)
  const told = `${median.toFixed(2)} s (${least.toFixed(2)} to ${most.toFixed(2)})`
  console.log(`${direction}: ${seconds.length} of ${values.runs} complete, ${values.size} MB each, ${told}`)
}

/** @param {Lab} lab @returns {Promise<Setting>} */
async function prepare(lab) {
  const dht = await lab.dht()
  for (const { node } of dht.nodes) node.setMaxListeners(0) // each torrent's announce is waited for at every node
  const server = await lab.server({ dht, env: { SWARMGATE__BRIDGE__POLICY: 'open', RUST_LOG: 'swarmgate=debug' } })
  const client = await lab.libtorrent(dht)
  return { client, dht, server, browser: await lab.browser(), site: await lab.webTorrentSite() }
}

/** @param {Lab} lab @param {Setting} setting @param {number} run */
async function down(lab, { client, dht, server, browser, site }, run) {
  const [bytes, file] = [noise(SIZE, run), join(await lab.directory(), NAME)]
  await writeFile(file, bytes)
  const { info_hash: infoHash } = await client.seed(file, 1 << 16)
  const announced = dht.announced(infoHash)
  await client.announce(infoHash)
  await announced
  const page = await site.open(browser)
  const link = `magnet:?xt=urn:btih:${infoHash}&tr=${encodeURIComponent(server.socket)}`
  const got = await within(STUCK, 'download by the page', download(page, link))
  if (got.sha256 !== sha256(bytes)) throw new Error('the content is not what was seeded')
  await page.context().close()
}

/** @param {Lab} lab @param {Setting} setting @param {number} run */
async function up(lab, { client, server, browser, site }, run) {
  const dir = await lab.directory()
  const page = await site.open(browser)
  const infoHash = await seedNoise(page, { name: NAME, size: SIZE, seed: run, tracker: server.socket })
  const finished = client.finished(infoHash)
  await client.download(infoHash, dir)
  await within(STUCK, 'download by libtorrent', finished)
  // libtorrent says so when it has verified all pieces, which is before the last of them need be on disk.
  const wanted = sha256(noise(SIZE, run))
  await eventually(10, 'file as it was seeded', async () => (await sha256OfFile(join(dir, NAME))) === wanted || null)
  await page.context().close()
}
