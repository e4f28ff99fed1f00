// What the tracker costs over UDP, beside aquatic_udp (crates.io) and opentracker (Debian): announces answered for each
// second of processor time, under aquatic's own load generator with its own mix (a connect to each announce, a scrape now
// and then, 30 peers wanted). Every server gets one processor, the generator the other; servers take turns, each run
// with a fresh one. Debian's opentracker serves only listed torrents, so the generator's are listed for it. With --flat it
// is our server alone, with tables of different sizes, after all peers have joined.

import { spawn } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { freePort, installed, listening, output, processorTime, spread, summary, swarmgateCommand } from './kit.mjs'

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '8' },
    flat: { type: 'boolean', default: false },
  },
})
const generator = join(installed, 'cargo/bin/aquatic_udp_load_test')
const opentracker = ['/usr/bin/opentracker', join(installed, 'opentracker/usr/bin/opentracker')].find(existsSync)

/** @typedef {{ torrents: number, peers: number }} Size what the generator plays */

/** So many that a table does not fit the processor's nearest caches. @type {Size} */
const USUAL = { torrents: 20_000, peers: 200_000 }

/** @type {Size[]} */
const SIZES = [
  { torrents: 1, peers: 100 },
  { torrents: 1, peers: 100_000 },
  { torrents: 100, peers: 500 },
  { torrents: 200_000, peers: 1_000_000 },
]

/** @type {Record<string, (port: number, dir: string) => Promise<string[]>>} */
const SERVERS = {
  swarmgate: async (port, dir) => swarmgateCommand(dir, { 'tracker.udp_listen': `127.0.0.1:${port}` }),
  aquatic_udp: async (port, dir) => {
    const program = join(installed, 'cargo/bin/aquatic_udp')
    const config = join(dir, 'aquatic.toml')
    const defaults = await output(program, '-p')
    await writeFile(config, defaults.replace(/^address = .*$/m, `address = "127.0.0.1:${port}"`))
    return [program, '-c', config]
  },
  opentracker: async (port, dir) => {
    await chmod(dir, 0o755) // it becomes `nobody`, and reads the list then
    const list = join(dir, 'list')
    await writeFile(list, torrents.map((hash) => `${hash}\n`).join(''))
    return [opentracker ?? '', '-i', '127.0.0.1', '-p', `${port}`, '-P', `${port}`, '-d', dir, '-w', 'list']
  },
}

/** @typedef {{ announces: number[], answered: number[] }} Figures of each round: for a second of processor time, and in a second */

const present = { swarmgate: true, aquatic_udp: existsSync(join(installed, 'cargo/bin/aquatic_udp')), opentracker }
const names = Object.keys(SERVERS).filter((name) => present[/** @type {keyof typeof present} */ (name)])
const torrents = opentracker && !options.flat ? await generated() : []
if (options.flat)
  await compare(SIZES.map((size) => [`${size.torrents} swarms, ${size.peers} peers`, 'swarmgate', size]))
else await compare(names.map((name) => [name, name, USUAL]))

/** Runs each in turn, and prints how the first does beside the others. @param {[string, string, Size][]} runs */
async function compare(runs) {
  /** @type {Figures[]} */
  const figures = runs.map(() => ({ announces: [], answered: [] }))
  for (let round = 0; round < Number(options.rounds); round++) {
    for (const [index, [, server, size]] of runs.entries()) {
      // Once more if it failed: the port may be somebody else's over TCP, which opentracker listens on too.
      const result = await run(server, size).catch(() => run(server, size))
      figures[index]?.announces.push(result.announces / result.processor)
      figures[index]?.answered.push(result.announces / Number(options.seconds))
    }
  }
  report(
    runs.map(([label]) => label),
    figures,
  )
}

/** @param {string[]} labels @param {Figures[]} figures */
function report(labels, figures) {
  console.log(
    `announces for each second of processor time, median (least to most); load average ${loadavg()[0]?.toFixed(1)}`,
  )
  for (const [index, { announces, answered }] of figures.entries()) {
    // Round by round, since what else the machine did was the same for both then.
    const ratios = announces.map((figure, round) => (figures[0]?.announces[round] ?? NaN) / figure)
    const ratio = index === 0 ? '' : `the first is at ${summary(ratios)} of it`
    const all = spread(answered).median.toFixed(0).padStart(8)
    console.log(`  ${(labels[index] ?? '').padEnd(30)} ${summary(announces, 0)} ${all} a second  ${ratio}`)
  }
}

/** One run of the generator against a fresh server. @param {string} name @param {Size} size */
async function run(name, size) {
  const dir = await mkdtemp(join(tmpdir(), 'swarmgate-bench-'))
  const port = await freePort('udp')
  const command = (await SERVERS[name]?.(port, dir)) ?? []
  const env = { ...process.env, LD_LIBRARY_PATH: join(installed, 'opentracker/usr/lib') }
  const server = spawn('taskset', ['-c', '0', ...command], { stdio: ['ignore', 'pipe', 'ignore'], env })
  try {
    if (name === 'swarmgate') await once(createInterface(server.stdout), 'line')
    await listening(port, 'udp')
    const config = join(dir, 'load.toml')
    await writeFile(config, await load(port, Number(options.seconds), size))
    // The generator plays the same peers in every run: once all have joined, what remains is the price of an announce.
    if (options.flat) await output('taskset', '-c', '1', generator, '-c', config)
    const before = await processorTime(server.pid ?? 0)
    const report = await output('taskset', '-c', '1', generator, '-c', config)
    const processor = (await processorTime(server.pid ?? 0)) - before
    const announces = Number(/Announce responses: +([\d.]+)/.exec(report)?.[1]) * Number(options.seconds)
    if (!(announces > 0)) throw new Error(`${name} answered nothing`)
    return { announces, processor }
  } finally {
    server.kill('SIGKILL')
    if (server.exitCode === null && server.signalCode === null) await once(server, 'exit')
    await rm(dir, { recursive: true, force: true })
  }
}

/** The generator's configuration. @param {number} port @param {number} seconds @param {Size} size */
async function load(port, seconds, { torrents, peers }) {
  const defaults = await output(generator, '-p')
  return defaults
    .replace(/^server_address = .*$/m, `server_address = "127.0.0.1:${port}"`)
    .replace(/^duration = .*$/m, `duration = ${seconds}`)
    .replace(/^number_of_torrents = .*$/m, `number_of_torrents = ${torrents}`)
    .replace(/^number_of_peers = .*$/m, `number_of_peers = ${peers}`)
    .replace(/^extra_statistics = .*$/m, 'extra_statistics = false')
}

/** The info hashes that the generator makes up, the same in every run: learned by answering it for a while. */
async function generated() {
  const dir = await mkdtemp(join(tmpdir(), 'swarmgate-bench-'))
  const hashes = new Set()
  const socket = createSocket('udp4')
  socket.on('message', (request, from) => {
    const [action, transaction] = [request.readUInt32BE(8), request.subarray(12, 16)]
    const head = Buffer.concat([request.subarray(8, 12), transaction])
    if (action === 1) hashes.add(request.subarray(16, 36).toString('hex'))
    if (action === 2)
      for (let at = 16; at + 20 <= request.length; at += 20) hashes.add(request.subarray(at, at + 20).toString('hex'))
    socket.send(Buffer.concat([head, Buffer.alloc(action === 0 ? 8 : 12, 1)]), from.port, from.address)
  })
  socket.bind(0, '127.0.0.1')
  await once(socket, 'listening')
  const config = join(dir, 'load.toml')
  await writeFile(config, await load(socket.address().port, 20, USUAL))
  await output(generator, '-c', config)
  socket.close()
  await rm(dir, { recursive: true, force: true })
  return [...hashes]
}
