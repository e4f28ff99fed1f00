// What the swarm table costs, without doors and sockets: the price of an announce in small and large tables, memory, and
// the longest pauses. The measuring itself is `src/tracker/table/tests/measure.rs`; each figure comes from a process of
// its own. Instructions are counted where valgrind is installed, by the difference of two runs: they do not depend on
// what else the machine does. Time does, and on its caches: it is the best of nine rounds, beside the median.

import { spawnSync } from 'node:child_process'

const built = run('cargo', ['test', '--release', '--lib', '--no-run', '--message-format=json'])
const artifacts = built.split('\n').filter((line) => line.includes('"executable":"'))
const { executable } = JSON.parse(artifacts.at(-1) ?? '{}')
const counts = spawnSync('valgrind', ['--version']).status === 0

console.log('an announce, of a peer that is there already, in random order')
console.log('  peers                      swarms    peers    told      ns  median  instructions')
for (const kind of ['v4', 'v6', 'web']) {
  for (const peers of [100, 1_000, 10_000, 100_000]) announce(kind, 1, peers)
  for (const swarms of [100, 2_000, 20_000, 200_000]) announce(kind, swarms, swarms * 5)
}

console.log('\n1,000,000 peers in one table, filled by announces, then all expired at once in slices of 4,096')
console.log('  peers      swarms     MB  bytes/peer  slice µs  longest µs  longest announce while filling µs')
for (const swarms of [200_000, 1]) {
  for (const kind of ['v4', 'v6', 'web', 'mixed']) {
    const { bytes, slice_us, longest_us, filling_us } = measure('memory_and_pauses', kind, swarms, 1_000_000)
    const columns = [
      [kind, -9],
      [swarms, 8],
      [(bytes / 1e6).toFixed(0), 7],
      [(bytes / 1e6).toFixed(0), 12],
      [slice_us, 10],
      [longest_us, 12],
      [filling_us, 35],
    ]
    print(columns)
  }
}

/** @param {string} kind @param {number} swarms @param {number} peers */
function announce(kind, swarms, peers) {
  const { ns, best, told } = measure('announces', kind, swarms, peers)
  const names = /** @type {Record<string, string>} */ ({
    v4: 'IPv4, asks for 50',
    v6: 'IPv6, asks for 50',
    web: 'web, five offers',
  })
  const instructions = counts ? counted(kind, swarms, peers).toFixed(0) : '-'
  print([
    [names[kind] ?? kind, -24],
    [swarms, 8],
    [peers, 9],
    [told, 8],
    [best, 8],
    [ns, 8],
    [instructions, 14],
  ])
}

/** Instructions of one announce. @param {string} kind @param {number} swarms @param {number} peers */
function counted(kind, swarms, peers) {
  const announces = 2_000
  const [none, some] = [0, announces].map((each) => {
    const env = environment(kind, swarms, peers, { TABLE_ROUNDS: 1, TABLE_ANNOUNCES: each, TABLE_KEEP: 1 })
    const options = ['--tool=callgrind', '--callgrind-out-file=/dev/null', executable, ...test('announces')]
    const { stderr } = spawnSync('valgrind', options, { env, encoding: 'utf8' })
    return Number(/Collected : (\d+)/.exec(stderr)?.[1])
  })
  return (Number(some) - Number(none)) / announces
}

/** @param {string} name @param {string} kind @param {number} swarms @param {number} peers */
function measure(name, kind, swarms, peers) {
  const out = run(executable, test(name), environment(kind, swarms, peers, {}))
  return JSON.parse(/{"swarms".*}/.exec(out)?.[0] ?? '{}')
}

/** @param {string} name */
function test(name) {
  return ['--ignored', '--exact', `tracker::table::tests::measure::${name}`, '--nocapture', '--test-threads=1']
}

/** @param {string} kind @param {number} swarms @param {number} peers @param {object} more */
function environment(kind, swarms, peers, more) {
  const numbers = { TABLE_SWARMS: swarms, TABLE_PEERS: peers, ...more }
  return {
    ...process.env,
    TABLE_KIND: kind,
    ...Object.fromEntries(Object.entries(numbers).map(([k, v]) => [k, String(v)])),
  }
}

/** @param {string} command @param {string[]} args @param {NodeJS.ProcessEnv} [env] */
function run(command, args, env = process.env) {
  const { status, stdout, stderr } = spawnSync(command, args, { env, encoding: 'utf8', maxBuffer: 1 << 28 })
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${stderr}`)
  return stdout
}

/** @param {(string | number)[][]} columns of text and width; negative to the left */
function print(columns) {
  const cells = columns.map(([text, width]) =>
    Number(width) < 0 ? `  ${String(text).padEnd(-Number(width))}` : String(text).padStart(Number(width)),
  )
  console.log(cells.join(''))
}
