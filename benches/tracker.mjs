// What the tracker costs over WebSocket, beside bittorrent-tracker (npm), aquatic_ws (crates.io) and, where there is one,
// wt-tracker: processor time for each offer or answer passed on, and memory for each idle peer. Every server gets one
// processor, the generator the other; servers take turns, each run with a fresh one, so that what else the machine does
// meets all of them. Then what a second processor brings us.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { freePort, installed, listening, output, printed, summary, swarmgateCommand, top } from './kit.mjs'

const { values: options } = parseArgs({
  options: { rounds: { type: 'string', default: '5' }, only: { type: 'string' }, sockets: { type: 'string' } },
})
const generator = join(installed, 'wtload/release/wtload')

/** @typedef {{ command: string[], ready: 'listening' | 'line' }} Server */

/** @type {Record<string, (port: number, dir: string) => Promise<Server>>} */
const SERVERS = {
  swarmgate: async (port, dir) => {
    return { command: swarmgateCommand(dir, { 'web.listen': `127.0.0.1:${port}` }), ready: 'line' }
  },
  'bittorrent-tracker': async (port) => {
    const program = join(top, 'tests/e2e/node_modules/bittorrent-tracker/bin/cmd.js')
    return { command: [process.execPath, program, '--ws', '--quiet', '--port', `${port}`], ready: 'listening' }
  },
  // Not in any registry: WT_TRACKER is the command that starts one, and it is told where its configuration is.
  'wt-tracker': async (port, dir) => {
    const config = join(dir, 'wt-tracker.json')
    const websockets = { path: '/*', maxPayloadLength: 65536, idleTimeout: 240, compression: 0, maxConnections: 0 }
    const servers = [{ server: { port, host: '127.0.0.1' }, websockets }]
    await writeFile(config, JSON.stringify({ servers, tracker: { maxOffers: 20, announceInterval: 120 } }))
    return { command: [...(process.env['WT_TRACKER'] ?? '').split(' '), config], ready: 'listening' }
  },
  aquatic_ws: async (port, dir) => {
    const program = join(installed, 'cargo/bin/aquatic_ws')
    const defaults = await output(program, '-p')
    const config = join(dir, 'aquatic.toml')
    // Its default closes the connection of a client that makes five real offers.
    const settings = defaults
      .replace(/^address = .*$/m, `address = "127.0.0.1:${port}"`)
      .replace(/^websocket_max_(message|frame)_size = .*$/gm, 'websocket_max_$1_size = 65536')
    await writeFile(config, settings)
    return { command: [program, '-c', config], ready: 'listening' }
  },
}

const ONE = '0'
const BOTH = '0,1'

const SOCKETS = ['--conns', '2000']
const LOAD = [...SOCKETS, '--swarms', '100', '--offers', '5']
/** `only` are the servers that it is for, if not all. @type {Record<string, { arguments: string[], figure: string, unit: string, only?: string[] }>} */
const MEASURES = {
  light: {
    arguments: [...LOAD, '--interval', '4', '--warmup', '5', '--duration', '12'],
    figure: 'cpu_us_per_relay',
    unit: 'µs of processor for each offer or answer',
  },
  heavy: {
    arguments: [...LOAD, '--window', '32', '--warmup', '4', '--duration', '10'],
    figure: 'cpu_us_per_relay',
    unit: 'µs of processor for each offer or answer',
  },
  deflate: {
    arguments: [...LOAD, '--interval', '4', '--warmup', '5', '--duration', '12', '--deflate', '1'],
    figure: 'cpu_us_per_relay',
    unit: 'µs of processor for each offer or answer, of clients that compress and are compressed for',
    only: ['swarmgate'],
  },
  idle: {
    arguments: [
      '--mode',
      'idle',
      '--conns',
      options.sockets ?? '5000',
      '--swarms',
      '500',
      '--offers',
      '5',
      '--hold',
      '4',
    ],
    figure: 'kib_per_conn',
    unit: 'KiB for each idle peer',
  },
}

/** @type {Record<string, boolean>} */
const missing = {
  aquatic_ws: !existsSync(join(installed, 'cargo/bin/aquatic_ws')),
  'wt-tracker': !process.env['WT_TRACKER'],
}
const names = Object.keys(SERVERS).filter((name) => !missing[name])
for (const [measure, { figure, unit, arguments: flags, only = names }] of Object.entries(MEASURES)) {
  if (options.only && options.only !== measure) continue
  /** @type {Map<string, number[]>} */
  const figures = new Map(only.map((name) => [name, []]))
  const bytes = { to: 0, from: 0 }
  for (let round = 0; round < Number(options.rounds); round++) {
    for (const [name, samples] of figures) {
      const result = await run(name, flags).catch((error) =>
        console.error(`${measure}: ${name} failed: ${error.message}`),
      )
      if (result) samples.push(Number(result[figure]))
      if (result && name === 'swarmgate') {
        bytes.to = Number(result['bytes_to_server_per_relay'])
        bytes.from = Number(result['bytes_from_server_per_relay'])
      }
    }
  }
  report(measure, unit, figures)
  if (bytes.to) console.log(`  bytes for each: ${bytes.to.toFixed(0)} to swarmgate, ${bytes.from.toFixed(0)} from it`)
}
if (!options.only || options.only === 'two') await secondProcessor()
if (!options.only || options.only === 'flat') await flat()

/** The same sockets with few swarms and with many, five peers in each, announcing all they are in by turns. */
async function flat() {
  const heavy = [...SOCKETS, '--offers', '5', '--window', '32', '--warmup', '4', '--duration', '10']
  const sizes = [
    ['400 swarms, 2,000 peers', '400', '1'],
    ['200,000 swarms, 1,000,000 peers', '200000', '500'],
  ]
  /** @type {number[][]} */
  const samples = sizes.map(() => [])
  for (let round = 0; round < Number(options.rounds); round++) {
    for (const [i, [, swarms = '', torrents = '']] of sizes.entries()) {
      const result = await run('swarmgate', [...heavy, '--swarms', swarms, '--torrents', torrents])
      samples[i]?.push(Number(result['cpu_us_per_announce']))
    }
  }
  console.log(
    `\nflat: µs of processor for each announce and all that it leads to; load average ${loadavg()[0]?.toFixed(1)}`,
  )
  for (const [i, [name = '']] of sizes.entries()) console.log(`  ${name.padEnd(38)} ${summary(samples[i] ?? [])}`)
  const ratios = (samples[1] ?? []).map((sample, round) => sample / (samples[0]?.[round] ?? NaN))
  console.log(`  ${'many, to few'.padEnd(38)} ${summary(ratios)}`)
}

/**
 * The heavy load with one processor and with both. The generator needs some of them as well, so what counts is not how
 * many offers pass in a second but the processor time they take, and how evenly the threads share it: were both
 * processors ours alone, the run would take as long as its busiest thread works.
 */
async function secondProcessor() {
  const { arguments: flags } = /** @type {{ arguments: string[] }} */ (MEASURES['heavy'])
  /** @type {{ one: number[], both: number[], shares: number[], gains: number[] }} */
  const { one, both, shares, gains } = { one: [], both: [], shares: [], gains: [] }
  for (let round = 0; round < Number(options.rounds); round++) {
    const alone = Number((await run('swarmgate', flags))['cpu_us_per_relay'])
    const result = await run('swarmgate', flags, BOTH)
    const [together, busiest] = [Number(result['cpu_us_per_relay']), Number(result['busiest'])]
    one.push(alone)
    both.push(together)
    shares.push(busiest)
    gains.push(alone / (together * busiest))
  }
  console.log(
    `\ntwo: the heavy load on two processors, median (least to most); load average ${loadavg()[0]?.toFixed(1)}`,
  )
  console.log(`  ${'µs each, on one'.padEnd(38)} ${summary(one)}`)
  console.log(`  ${'µs each, on two'.padEnd(38)} ${summary(both)}`)
  console.log(`  ${'share of the busiest thread, on two'.padEnd(38)} ${summary(shares)}`)
  console.log(`  ${'so two do, of what one does'.padEnd(38)} ${summary(gains)}`)
}

/**
 * One run of the generator against a fresh server. `busiest` is the largest share of the server's processor time that
 * one of its threads had, once all were connected.
 * @param {string} name @param {string[]} flags @param {string} [processors]
 * @returns {Promise<Record<string, unknown>>}
 */
async function run(name, flags, processors = ONE) {
  const dir = await mkdtemp(join(tmpdir(), 'swarmgate-bench-'))
  const port = await freePort('tcp')
  const start = SERVERS[name]
  if (!start) throw new Error(`no server is called ${name}`)
  const { command, ready } = await start(port, dir)
  const server = spawn('taskset', ['-c', processors, ...command], { stdio: ['ignore', 'pipe', 'ignore'] })
  try {
    if (ready === 'line') await once(createInterface(server.stdout), 'line')
    else await listening(port)
    const address = ['--addr', `127.0.0.1:${port}`, '--pid', `${server.pid}`, '--label', name]
    const load = spawn('taskset', ['-c', processors === ONE ? '1' : BOTH, generator, ...address, ...flags])
    const text = printed(load)
    // It says so when all are connected.
    await once(load.stderr, 'data')
    const before = await threads(server.pid)
    await once(load, 'exit')
    const after = await threads(server.pid)
    const result = JSON.parse(await text)
    if (result.err || result.closed > 0) throw new Error(`${result.closed} closed, ${result.err}`)
    const worked = [...after].map(([thread, time]) => time - (before.get(thread) ?? 0))
    return { ...result, busiest: Math.max(...worked) / worked.reduce((all, time) => all + time, 0) }
  } finally {
    server.kill('SIGKILL')
    if (server.exitCode === null && server.signalCode === null) await once(server, 'exit')
    await rm(dir, { recursive: true, force: true })
  }
}

/** @param {string} measure @param {string} unit @param {Map<string, number[]>} figures */
function report(measure, unit, figures) {
  console.log(`\n${measure}: ${unit}, median (least to most); load average ${loadavg()[0]?.toFixed(1)}`)
  const ours = figures.get('swarmgate') ?? []
  for (const [name, samples] of figures) {
    // Round by round, since what else the machine did was the same for both then.
    const ratios = samples.map((sample, round) => (ours[round] ?? NaN) / sample)
    const ratio = name === 'swarmgate' ? '' : `swarmgate is at ${summary(ratios)} of it`
    console.log(`  ${name.padEnd(20)} ${summary(samples)}   ${ratio}`)
  }
}

/** Processor time of each thread so far, in ticks of the kernel's. @param {number | undefined} pid */
async function threads(pid) {
  /** @type {Map<string, number>} */
  const times = new Map()
  for (const thread of await readdir(`/proc/${pid}/task`)) {
    const fields = (await readFile(`/proc/${pid}/task/${thread}/stat`, 'utf8')).split(') ')[1]?.split(' ') ?? []
    times.set(thread, Number(fields[11]) + Number(fields[12]))
  }
  return times
}
