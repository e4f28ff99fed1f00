// The record service beside what it is to reach, and beside a Pkarr relay (crates.io): gets of records that are held, a put
// to ten thousand subscribers, memory for each subscription and record, and the subscriber of another server.

import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { installed, peer, spread, swarmgate, top } from './kit.mjs'

const { values: options } = parseArgs({
  options: { rounds: { type: 'string', default: '3' }, only: { type: 'string' } },
})
const generator = join(installed, 'recordload/release/recordload')
const relay = join(installed, 'cargo/bin/pkarr-relay')
/** Where a relay in its test mode listens: with a DHT of its own on loopback, and no limits by address. */
const RELAY_PORT = 15411

/** @typedef {{ name: string, run: (dir: string) => Promise<Record<string, number>> }} Variant */
/** @typedef {{ figure: string, unit: string, target?: number, atMost?: boolean, scale?: number }} Figure */

/** @param {string[]} parameters @param {Record<string, string>} [env] */
const ours = (parameters, env) => async (/** @type {string} */ dir) => {
  const server = await swarmgate(dir, env)
  try {
    return flat(await server.measured(generator, ...parameters))
  } finally {
    await server.stop()
  }
}

/** @param {string} dir */
async function pkarr(dir) {
  const server = await peer([relay, '--testnet', '--tracing-env-filter', 'off'], RELAY_PORT, { TMPDIR: dir })
  try {
    return flat(await server.measured(generator, 'gets', 'pkarr', '--connections', '64', '--records', '100'))
  } finally {
    await server.stop()
  }
}

/** Puts a full book, and starts again with it. @param {string} dir */
async function fullBook(dir) {
  const server = await swarmgate(dir)
  const put = await server
    .measured(generator, 'book', '--records', '100000', '--bound', '100000')
    .finally(() => server.stop('SIGTERM'))
  const begun = performance.now()
  const again = await swarmgate(dir)
  const start_seconds = (performance.now() - begun) / 1000
  const resident_started = await again.resident()
  await again.stop()
  return flat({ ...put, start_seconds, resident_started })
}

/** @type {Record<string, { variants: Variant[], figures: Figure[] }>} */
const MEASURES = {
  gets: {
    variants: [
      { name: 'WebSocket, one at a time', run: ours(['gets', 'socket', '--connections', '256']) },
      { name: 'WebSocket, 16 under way', run: ours(['gets', 'socket', '--connections', '64', '--depth', '16']) },
      { name: 'HTTP', run: ours(['gets', 'http', '--connections', '64']) },
      ...(existsSync(relay) ? [{ name: 'pkarr-relay, HTTP', run: pkarr }] : []),
    ],
    figures: [
      { figure: 'gets_per_cpu_second', unit: 'gets for each second of processor', target: 50_000 },
      { figure: 'latency.p99_ms', unit: 'ms for 99 % of gets, at full load' },
    ],
  },
  fanout: {
    variants: [{ name: '10,000 subscribers, 200 slow', run: ours(['fanout']) }],
    figures: [
      { figure: 'from_put.p50_ms', unit: 'ms from sending a put to half of the subscribers' },
      { figure: 'from_put.p99_ms', unit: 'ms from sending a put to 99 % of them', target: 200, atMost: true },
      { figure: 'from_put.most_ms', unit: 'ms from sending a put to the last of them' },
      { figure: 'acknowledged.p50_ms', unit: 'ms from sending a put to its acknowledgement' },
      { figure: 'server_cpu_us_per_update', unit: 'µs of processor for each subscriber and put' },
      { figure: 'slow.received_most', unit: 'of 70 versions sent to a reader that does not read, at most' },
    ],
  },
  memory: {
    variants: [
      { name: '10 records, all by 10,000 sockets', run: ours(['memory', '--each', '10', '--records', '10']) },
      {
        name: '100,000 records, 10 by each socket',
        run: ours(['memory', '--each', '10', '--records', '100000'], {
          SWARMGATE__GOSSIP__ENABLED: 'false',
        }),
      },
    ],
    figures: [{ figure: 'bytes_per_subscription', unit: 'bytes for each subscription', target: 400, atMost: true }],
  },
  book: {
    variants: [{ name: '100,000 records put', run: fullBook }],
    figures: [
      { figure: 'puts_per_second', unit: 'puts each second, on disk before they are acknowledged' },
      { figure: 'server_cpu_us_per_put', unit: 'µs of processor for each put' },
      { figure: 'bytes_per_record', unit: 'bytes for each record' },
      { figure: 'start_seconds', unit: 'seconds to start with them' },
      { figure: 'resident_started', unit: 'MB in memory after that start', scale: 1e-6 },
    ],
  },
  bound: {
    variants: [
      {
        name: '60,000 put where 20,000 have room',
        run: ours(['book', '--records', '60000', '--bound', '20000'], { SWARMGATE__RECORDS__MAX_RECORDS: '20000' }),
      },
    ],
    figures: [
      { figure: 'puts_per_second', unit: 'puts each second' },
      { figure: 'server_cpu_us_per_put', unit: 'µs of processor for each put' },
      { figure: 'bytes_per_record', unit: 'bytes for each record kept, with the numbers of those that are gone' },
    ],
  },
}

for (const [measure, { variants, figures }] of Object.entries(MEASURES)) {
  if (options.only && options.only !== measure) continue
  /** @type {Map<string, Record<string, number>[]>} */
  const results = new Map(variants.map(({ name }) => [name, []]))
  for (let round = 0; round < Number(options.rounds); round++) {
    for (const { name, run } of variants) {
      const dir = await mkdtemp(join(tmpdir(), 'swarmgate-bench-'))
      try {
        results.get(name)?.push(await run(dir))
      } catch (error) {
        console.error(`${measure}, ${name}: ${error instanceof Error ? error.message : error}`)
        process.exitCode = 1
      } finally {
        await rm(dir, { recursive: true, force: true })
      }
    }
  }
  report(measure, results, figures)
}
/** What has a program of its own, which prints its own figures. */
const PROGRAMS = {
  'other-server': ['seconds from a put through one server to the subscriber of another', 'other_server.mjs'],
  'cold-get': ['milliseconds to a record that the server does not have', 'cold_get.mjs'],
}
for (const [name, [what, program = '']] of Object.entries(PROGRAMS)) {
  if (options.only && options.only !== name) continue
  console.log(`\n${name}: ${what}`)
  const { status } = spawnSync(process.execPath, [join(top, 'benches', program)], { stdio: 'inherit' })
  if (status !== 0) process.exitCode = 1
}

/** @param {string} measure @param {Map<string, Record<string, number>[]>} results @param {Figure[]} figures */
function report(measure, results, figures) {
  console.log(`\n${measure}: median (least to most) of ${options.rounds}; load average ${loadavg()[0]?.toFixed(1)}`)
  for (const { figure, unit, target, atMost, scale = 1 } of figures) {
    console.log(`  ${unit}`)
    /** @type {number | undefined} */
    let first
    for (const [name, runs] of results) {
      const { median, least, most } = spread(runs.map((run) => (run[figure] ?? NaN) * scale))
      first ??= median
      const ratios = [
        ...(target ? [`${(atMost ? target / median : median / target).toFixed(2)}× the target of ${target}`] : []),
        ...(name.startsWith('pkarr') ? [`the first line is at ${(first / median).toFixed(1)}× of it`] : []),
      ]
      const figureText = `${short(median)} (${short(least)} to ${short(most)})`
      console.log(`    ${name.padEnd(36)} ${figureText.padEnd(32)} ${ratios.join('; ')}`)
    }
  }
}

/** @param {number} value */
function short(value) {
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3)
}

/** `{ a: { b: 1 } }` as `{ 'a.b': 1 }`. @param {Record<string, any>} report @returns {Record<string, number>} */
function flat(report) {
  const fields = Object.entries(report).flatMap(([name, value]) =>
    typeof value === 'object' && value !== null
      ? Object.entries(flat(value)).map(([inner, figure]) => [`${name}.${inner}`, figure])
      : [[name, value]],
  )
  return Object.fromEntries(fields)
}
