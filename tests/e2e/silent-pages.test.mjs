// Stock WebTorrent in pages that make no offers (`numwant: 0`): the bridge offers to them.

import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { trial } from './testkit/lab.mjs'
import { PinApi } from './testkit/pin_api.mjs'
import { seedInto } from './testkit/seeding.mjs'
import { download } from './testkit/webtorrent.mjs'
import { eventually, within } from './testkit/wait.mjs'

const SILENT = { numwant: 0 }

trial('a page that makes no offers is reached over our own tracker', async (lab) => {
  const dht = await lab.dht()
  const server = await lab.server({ dht, env: { SWARMGATE__BRIDGE__POLICY: 'pinned' } })
  const { file, expected } = await content(lab)
  const { info_hash } = await seedInto(dht, await lab.libtorrent(dht), file)
  await (await PinApi.of(server, null)).pin({ target: info_hash })

  const page = await (await lab.webTorrentSite()).open(await lab.browser())
  const link = `magnet:?xt=urn:btih:${info_hash}&tr=${encodeURIComponent(server.socket)}`
  assert.deepEqual(await within(90, 'download by the page', download(page, link, SILENT)), expected)
  const metrics = await server.metrics()
  assert.match(metrics, /bridge_offers_total\{result="opened"\} 1\n/)
  assert.doesNotMatch(metrics, /tracker_relayed_total\{kind="resident_offer"\} [1-9]/, 'it offered nothing itself')
})

trial('a page that makes no offers is reached over another tracker', async (lab) => {
  const tracker = await lab.foreignTracker()
  const { file, expected } = await content(lab)
  const home = await lab.directory()
  const dht = await lab.dht()
  const seeder = await lab.libtorrent(dht)
  const { info_hash } = await seedInto(dht, seeder, file)
  const page = await (await lab.webTorrentSite()).open(await lab.browser())
  const link = `magnet:?xt=urn:btih:${info_hash}&tr=${encodeURIComponent(tracker.socket)}`
  const downloading = download(page, link, SILENT)
  downloading.catch(() => {}) // the first failure is the one to tell
  await eventually(60, 'announce of the page', () => tracker.peers(info_hash) === 1 || null)

  const env = { SWARMGATE__BRIDGE__POLICY: 'pinned', SWARMGATE__BRIDGE__TRACKERS: JSON.stringify([tracker.socket]) }
  const server = await lab.server({ dht, dataDir: home, env })
  await (await PinApi.of(server, null)).pin({ target: info_hash })
  assert.deepEqual(await within(90, 'download by the page', downloading), expected)
})

/** A file, and what a page should make of it. @param {import('./testkit/lab.mjs').Lab} lab */
async function content(lab) {
  const [file, bytes] = [join(await lab.directory(), 'content'), randomBytes(1_000_000)]
  await writeFile(file, bytes)
  return { file, expected: { size: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') } }
}
