// A page far away, on an emulated path between two network namespaces (benches/path.mjs): what reaches it over WebRTC from
// this server, beside TCP on the same path, beside another Chromium, and beside this server's content door. Needs root.
//
//   node benches/distance.mjs [--only 20-deep,100-shallow,loss-1] [--who tcp,swarmgate] [--runs 5] [--megabytes 20]
//
// Who takes part takes turns, run by run; each run has a fresh path, server and browser. Figures are of the page (or the
// TCP reader) from its first peer to the last byte, and of the queue on the way to it.

import { spawn } from 'node:child_process'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { EXECUTABLE } from '../tests/e2e/testkit/chromium.mjs'
import { noise } from '../tests/e2e/testkit/content.mjs'
import { Lab } from '../tests/e2e/testkit/lab.mjs'
import { once, within } from '../tests/e2e/testkit/wait.mjs'
import { ForeignTracker, seedNoise, timed } from '../tests/e2e/testkit/webtorrent.mjs'
import { spread } from './kit.mjs'
import { Path, TwoHosts } from './path.mjs'

const { values } = parseArgs({
  options: {
    only: { type: 'string', default: '20-deep,20-shallow,100-deep,100-shallow,loss-1,loss-2,loss-3' },
    who: { type: 'string' },
    runs: { type: 'string', default: '5' },
    megabytes: { type: 'string' },
    hosts: { type: 'string' },
  },
})

/** One way; the round trip is twice that. */
const DELAY = 25
const ONE_SECOND = 1e6 / 8
const TIMEOUT = 200

/** Deep: 400 ms at the path's rate. Shallow: 15 ms, a third of a round trip. */
const limited = (/** @type {number} */ rate, /** @type {number} */ ms, /** @type {number} */ megabytes) => ({
  shape: { delay: DELAY, rate, queue: Math.round((rate * ONE_SECOND * ms) / 1000), loss: 0 },
  megabytes,
  who: ['tcp', 'swarmgate'],
})
const lossy = (/** @type {number} */ loss) => ({
  shape: { delay: DELAY, rate: 0, queue: 0, loss },
  megabytes: 4,
  who: ['tcp', 'web', 'swarmgate', 'webseed'],
})
/** @type {Record<string, { shape: Omit<import('./path.mjs').Shape, 'seed'>, megabytes: number, who: string[] }>} */
const PATHS = {
  '20-deep': limited(20, 400, 20),
  '20-shallow': limited(20, 15, 20),
  '100-deep': limited(100, 400, 80),
  '100-shallow': limited(100, 15, 80),
  'loss-1': lossy(1),
  'loss-2': lossy(2),
  'loss-3': lossy(3),
}

/** Sends so many bytes to whoever connects; Node cannot choose the congestion control. */
const SENDER = `
import socket, sys
server = socket.create_server((sys.argv[1], 0))
server.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
print(server.getsockname()[1], flush=True)
connection, _ = server.accept()
connection.sendall(bytes(int(sys.argv[2])))
connection.shutdown(socket.SHUT_WR)
connection.recv(1)
`

/** The other end: prints what came, and how long it took. */
const READER = `
import json, socket, sys, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
begun, count = time.monotonic(), 0
while data := connection.recv(1 << 16):
    count += len(data)
print(json.dumps({"bytes": count, "seconds": time.monotonic() - begun}))
`

/** @typedef {{ mbs: number, standing: number, p95: number, dropped: number }} Figures */
/** @typedef {{ lab: Lab, path: Path, hosts: TwoHosts, size: number }} Run */

/** @type {Record<string, (run: Run) => Promise<number>>} seconds from the first peer to the last byte */
const KINDS = {
  tcp,
  web: fromPage,
  swarmgate: (run) => fromServer(run, false),
  webseed: (run) => fromServer(run, true),
}

if (values.hosts) {
  for (const name of values.only.split(',')) await measure(name, new TwoHosts(values.hosts))
} else {
  const hosts = await TwoHosts.start()
  try {
    const prefix = hosts.here.namespace.replace(/-a$/, '')
    const [command = '', ...args] = [...hosts.here.via, process.execPath, ...process.argv.slice(1), '--hosts', prefix]
    const [code] = await once(spawn(command, args, { stdio: 'inherit' }), 'exit')
    process.exitCode = code
  } finally {
    await hosts.stop()
  }
}

/** @param {string} name @param {TwoHosts} hosts */
async function measure(name, hosts) {
  const setting = PATHS[name]
  if (!setting) throw new Error(`no path is called ${name}`)
  const takePart = setting.who.filter((who) => !values.who || values.who.split(',').includes(who))
  /** @type {Record<string, Figures[]>} */
  const all = Object.fromEntries(takePart.map((who) => [who, []]))
  for (let run = 1; run <= Number(values.runs); run++) {
    for (const who of takePart) {
      const lab = new Lab()
      try {
        const path = await Path.start(hosts, { ...setting.shape, seed: run })
        lab.keep(path, path)
        const size = Number(values.megabytes ?? setting.megabytes) * 1e6
        const seconds = await KINDS[who]?.({ lab, path, hosts, size })
        const { a_to_b: way } = await path.report()
        const [standing, p95, dropped] = [way.standing_ms, way.queue_p95_ms, way.dropped]
        const figures = { mbs: size / 1e6 / (seconds ?? NaN), standing, p95, dropped }
        all[who]?.push(figures)
        console.log(`${name} ${who}: ${JSON.stringify(figures)}`)
      } catch (error) {
        console.log(lab.account())
        throw error
      } finally {
        await lab.close()
      }
    }
  }
  report(name, all)
}

/** A byte stream over the kernel's TCP, with cubic. @param {Run} run */
async function tcp({ lab, path, hosts, size }) {
  const { address } = hosts.here
  const sender = python(lab, hosts.here, SENDER, [address, `${size}`])
  const [port] = await within(10, 'port of the sender', once(sender, 'line'))
  await path.report()
  const reader = python(lab, hosts.there, READER, [address, port])
  const { bytes, seconds } = JSON.parse((await within(TIMEOUT, 'TCP transfer', once(reader, 'line')))[0])
  if (bytes !== size) throw new Error(`${bytes} bytes of ${size} arrived`)
  return seconds
}

/** @param {Lab} lab @param {import('../tests/e2e/testkit/network.mjs').Host} host @param {string} script @param {string[]} parameters */
function python(lab, host, script, parameters) {
  const [command = '', ...args] = [...host.via, '/usr/bin/python3', '-c', script, ...parameters]
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  lab.keep(child, { stop: async () => child.kill('SIGKILL') })
  return createInterface({ input: child.stdout })
}

/** libtorrent seeds next to the server, which bridges to a page far away. @param {Run} run @param {boolean} seed */
async function fromServer({ lab, path, hosts, size }, seed) {
  const dht = await lab.dht()
  const seeder = await lab.libtorrent(dht)
  const file = join(await lab.directory(), 'content.bin')
  await writeFile(file, noise(size, 77))
  const { info_hash: infoHash } = await seeder.seed(file, 1 << 18)
  const announced = dht.announced(infoHash)
  await seeder.announce(infoHash)
  await announced
  const env = {
    SWARMGATE__BRIDGE__POLICY: 'open',
    SWARMGATE__WEB__LISTEN: `${hosts.here.address}:0`,
    SWARMGATE__WEBRTC__LISTEN: '0.0.0.0:0',
    RUST_LOG: process.env['RUST_LOG'] ?? 'warn',
  }
  const server = await lab.server({ dht, env })
  const page = await pageFarAway(lab, hosts)
  const link = `magnet:?xt=urn:btih:${infoHash}&tr=${encodeURIComponent(server.socket)}`
  const door = `http://${server.ready.web}/v1/webseeds/${infoHash}/`
  await path.report()
  const run = timed(page, seed ? `${link}&ws=${encodeURIComponent(door)}` : link)
  return (await within(TIMEOUT, 'download by the page', run)).transfer
}

/** Chromium to Chromium. @param {Run} run */
async function fromPage({ lab, path, hosts, size }) {
  const tracker = await ForeignTracker.start(hosts.here.address)
  lab.keep(tracker, tracker)
  const site = await lab.webTorrentSite()
  const seeder = await site.open(
    await lab.browser(EXECUTABLE, undefined, ['--disable-features=WebRtcHideLocalIpsWithMdns']),
  )
  const file = { name: 'content.bin', size, seed: 77, tracker: tracker.socket }
  const infoHash = await seedNoise(seeder, file)
  const page = await pageFarAway(lab, hosts)
  await path.report()
  const link = `magnet:?xt=urn:btih:${infoHash}&tr=${encodeURIComponent(tracker.socket)}`
  return (await within(TIMEOUT, 'download by the page', timed(page, link))).transfer
}

/** A page with WebTorrent at the other end. @param {Lab} lab @param {TwoHosts} hosts */
async function pageFarAway(lab, hosts) {
  const site = await lab.webTorrentSite(hosts.here.address)
  const browser = await lab.browser(await hosts.there.wrapper(EXECUTABLE, await lab.directory()), undefined, [
    '--disable-features=WebRtcHideLocalIpsWithMdns', // there is no multicast on this path
    `--unsafely-treat-insecure-origin-as-secure=${site.origin}`,
  ])
  return site.open(browser)
}

/** @param {string} name @param {Record<string, Figures[]>} all */
function report(name, all) {
  console.log(`\n${name}, ${values.runs} runs: median (least to most)`)
  /** @param {Figures[]} runs @param {keyof Figures} figure */
  const of = (runs, figure) => spread(runs.map((run) => run[figure]))
  for (const [who, runs] of Object.entries(all)) {
    const told = /** @type {const} */ ([
      ['mbs', 'MB/s', 2],
      ['standing', 'standing queue, ms', 1],
      ['p95', 'queue at 95 %, ms', 1],
      ['dropped', 'dropped', 0],
    ]).map(([figure, what, digits]) => {
      const { median, least, most } = of(runs, figure)
      return `${what} ${median.toFixed(digits)} (${least.toFixed(digits)} to ${most.toFixed(digits)})`
    })
    console.log(`  ${who.padEnd(10)} ${told.join('   ')}`)
  }
  for (const ours of ['swarmgate', 'webseed']) {
    for (const other of ['tcp', 'web']) {
      if (!all[ours] || !all[other]) continue
      const ratio = of(all[ours], 'mbs').median / of(all[other], 'mbs').median
      console.log(`  ${ours} against ${other}: ${ratio.toFixed(2)}×`)
    }
  }
}
