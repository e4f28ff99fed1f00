// A thousand pinned sites of twenty files on one server: memory, processor time and DHT packets at rest, the time to start,
// and what one more costs, at ten and at a thousand. The bytes are on disk already, so what is measured is the pins. The
// DHT is a network of the server's own kind: thirty more servers, each at a loopback address of its own.
//
// make bench-pins [SITES=1000] [NODES=30] [RUNS=3] [SETTLE=30] [REST=120]

import { createHash, randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import bencode from '../tests/e2e/testkit/bencode.mjs'
import { nextAddress } from '../tests/e2e/testkit/dht.mjs'
import { PinApi } from '../tests/e2e/testkit/pin_api.mjs'
import { Key, pointer } from '../tests/e2e/testkit/record.mjs'
import { Server } from '../tests/e2e/testkit/swarmgate.mjs'
import { spread } from './kit.mjs'

const setting = (/** @type {string} */ name, /** @type {number} */ usual) => Number(process.env[name] ?? usual)
const SITES = setting('SITES', 1000)
const NODES = setting('NODES', 30)
const RUNS = setting('RUNS', 3)
/** Seconds: how long the server is left alone with its thousand before it is measured at rest, and meanwhile. */
const SETTLE = setting('SETTLE', 30)
const REST = setting('REST', 120)
const ENV = { SWARMGATE__GOSSIP__LOCAL_DISCOVERY: 'false', RUST_LOG: 'warn' }
/** Sites whose cost is measured, one after the other, at either end; the others are added several at once. */
const MEASURED = 20
const AT_ONCE = 16
const FILES = 20
const FILE = 1024

/** @param {string} dataDir  puts a site's bytes where the bridge keeps them; its info hash */
async function place(dataDir) {
  const names = Array.from({ length: FILES }, (_, n) => `page${String(n).padStart(2, '0')}.md`)
  const contents = names.map(() => randomBytes(FILE))
  const whole = Buffer.concat(contents)
  const pieces = []
  for (let at = 0; at < whole.length; at += 16384) {
    pieces.push(
      createHash('sha1')
        .update(whole.subarray(at, at + 16384))
        .digest(),
    )
  }
  const files = names.map((name) => ({ length: FILE, path: [name] }))
  const info = { files, name: 'site', 'piece length': 16384, pieces: Buffer.concat(pieces) }
  const infoHash = createHash('sha1').update(bencode.encode(info)).digest('hex')
  const folder = join(dataDir, 'pinned', infoHash)
  await mkdir(join(folder, 'files'), { recursive: true })
  await Promise.all(names.map((name, n) => writeFile(join(folder, 'files', name), contents[n] ?? '')))
  await writeFile(join(folder, 'torrent'), bencode.encode({ info }))
  return infoHash
}

/** @param {Server} server @param {PinApi} api @param {string} dataDir */
async function addOne(server, api, dataDir) {
  const [infoHash, key] = [await place(dataDir), new Key()]
  const { v, seq, sig } = key.record({ v: pointer(infoHash), seq: 1 })
  const record = { k: key.hex, seq, v: v.toString('hex'), sig: sig.toString('hex') }
  const put = await fetch(`http://${server.ready.admin}/v1/records/${key.hex}`, {
    method: 'PUT',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(record),
  })
  if (!put.ok) throw new Error(await put.text())
  const began = performance.now()
  const pin = await api.pin({ target: key.hex })
  const acknowledged = performance.now() - began
  await api.until(pin.id, 60, 'pinned site', (pin) => pin.status === 'pinned')
  return { acknowledged, pinned: performance.now() - began }
}

/** Processor time of a process, seconds. @param {number | undefined} pid */
async function cpu(pid) {
  const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ')[1]?.split(' ') ?? []
  return (Number(fields[11]) + Number(fields[12])) / 100
}

/** Datagrams of the DHT so far, received and sent. @param {Server} server */
async function packets(server) {
  const lines = (await server.metrics()).matchAll(/^swarmgate_dht_packets_total\{[^}]*\} (\d+)/gm)
  return [...lines].reduce((sum, [, n]) => sum + Number(n), 0)
}

/** A DHT of servers that do nothing else. @param {string} home */
async function network(home) {
  /** @type {Server[]} */
  const nodes = []
  while (nodes.length < NODES) {
    const bootstrap = nodes.slice(0, 3).map((node) => node.ready.dht)
    const listen = { SWARMGATE__DHT__LISTEN: `${nextAddress()}:0` }
    nodes.push(
      await Server.start({ dataDir: join(home, `node${nodes.length}`), bootstrap, env: { ...ENV, ...listen } }),
    )
  }
  return nodes
}

/** One server from empty to a thousand sites, and again after a restart. Figures by what they are of. */
async function measure() {
  const home = await mkdtemp(join(tmpdir(), 'swarmgate-bench-pins-'))
  const dataDir = join(home, 'data')
  /** @type {Server[]} */
  const running = []
  /** @type {Record<string, number>} */
  const figures = {}
  const start = async (/** @type {string[]} */ bootstrap) => {
    const listen = { SWARMGATE__DHT__LISTEN: `${nextAddress()}:0` }
    const server = await Server.start({ dataDir, bootstrap, env: { ...ENV, ...listen } })
    running.push(server)
    return { server, api: await PinApi.of(server, null), stop: async () => running.pop()?.stop() }
  }
  /** Processor seconds and DHT packets of each second. */
  const atRest = async (/** @type {Server} */ server, /** @type {number} */ settle) => {
    await pause(settle * 1000)
    const [spent, sent, since] = [await cpu(server.child.pid), await packets(server), performance.now()]
    await pause(REST * 1000)
    const [processor, dht] = [(await cpu(server.child.pid)) - spent, (await packets(server)) - sent]
    const seconds = (performance.now() - since) / 1000
    return { processor: processor / seconds, dht: dht / seconds }
  }
  /** What one more costs, beyond what the server does anyway. */
  const cost = async (
    /** @type {string} */ at,
    /** @type {number} */ settle,
    /** @type {Awaited<ReturnType<typeof start>>} */ { server, api },
  ) => {
    const rest = await atRest(server, settle)
    /** @type {{ acknowledged: number, pinned: number }[]} */
    const costs = []
    const [spent, began] = [await cpu(server.child.pid), performance.now()]
    for (let n = 0; n < MEASURED; n++) costs.push(await addOne(server, api, dataDir))
    const processor = (await cpu(server.child.pid)) - spent - (rest.processor * (performance.now() - began)) / 1000
    figures[`one more at ${at}: acknowledged, ms`] = spread(costs.map((one) => one.acknowledged)).median
    figures[`one more at ${at}: pinned, ms`] = spread(costs.map((one) => one.pinned)).median
    figures[`one more at ${at}: processor, ms`] = (1000 * processor) / MEASURED
    return rest
  }
  try {
    running.push(...(await network(home)))
    const bootstrap = running.slice(0, 3).map((node) => node.ready.dht)
    const empty = await start(bootstrap)
    figures['memory empty, MiB'] = (await empty.server.memory()).own
    await cost('ten', 30, empty)
    await empty.stop()
    // With no DHT: a small one is asked at most three things a second of each node, and filling would take long.
    await rm(join(dataDir, 'dht-nodes'))
    const filling = await start([])
    let left = SITES - MEASURED
    const fill = async () => {
      while (left-- > 0) await addOne(filling.server, filling.api, dataDir)
    }
    await Promise.all(Array.from({ length: AT_ONCE }, fill))
    await filling.stop()
    const began = performance.now()
    const full = await start(bootstrap)
    figures['start, ms'] = performance.now() - began
    figures['pinned after the start'] = (await full.api.all()).filter((pin) => pin.status === 'pinned').length
    const rest = await cost('a thousand', SETTLE, full)
    figures['at rest: processor, % of one'] = 100 * rest.processor
    figures['at rest: DHT packets a second'] = rest.dht
    figures['at rest: memory, MiB'] = (await full.server.memory()).own
    const ending = performance.now()
    await full.stop()
    figures['stop, ms'] = performance.now() - ending
    return figures
  } finally {
    await Promise.all(running.map((server) => server.stop('SIGKILL').catch(() => {})))
    await rm(home, { recursive: true, force: true })
  }
}

// Servers end with this process, which a signal alone would not tell it.
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1))
process.setMaxListeners(0)

/** @type {Record<string, number[]>} */
const samples = {}
for (let run = 0; run < RUNS; run++) {
  for (const [name, figure] of Object.entries(await measure())) (samples[name] ??= []).push(figure)
}
console.log(`${SITES} sites of ${FILES} files, a DHT of ${NODES} nodes, ${RUNS} runs: median (least to most)`)
for (const [name, figures] of Object.entries(samples)) {
  const [median, least, most] = Object.values(spread(figures)).map((figure) => figure.toFixed(1))
  console.log(`${name}: ${median} (${least} to ${most})`)
}
