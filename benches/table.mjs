// What the swarm table costs, without doors and sockets: the price of an announce in small and large tables, memory, and
// the longest pauses. The measuring itself is `table/`, which is compiled from the table's own sources; each figure comes
// from a process of its own. Instructions are counted where valgrind is installed, by the difference of two runs: they do
// not depend on what else the machine does. Time does, and on its caches: it is the best of nine rounds, beside the median.

import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { installed } from './kit.mjs'

const program = join(installed, 'table/release/table-bench')
const counts = spawnSync('valgrind', ['--version']).status === 0

console.log('an announce, of a peer that is there already, in random order; and the first of each, in order')
console.log('  peers                      swarms    peers    told      ns  median  instructions   joining')
for (const kind of ['v4', 'v6', 'web']) {
  for (const peers of [100, 1_000, 10_000, 100_000]) announce(kind, 1, peers)
  for (const swarms of [100, 2_000, 20_000, 200_000]) announce(kind, swarms, swarms * 5)
}

console.log('\n1,000,000 peers in one table, filled by announces, then all expired at once in slices of 4,096')
console.log('  peers      swarms     MB  bytes/peer  slice µs  longest µs  longest announce while filling µs')
for (const swarms of [200_000, 1]) {
  for (const kind of ['v4', 'v6', 'web', 'mixed']) {
    const peers = 1_000_000
    const { bytes, slice_us, longest_us, filling_us } = measure('memory', kind, swarms, peers)
    print([
      [kind, -9],
      [swarms, 8],
      [(bytes / 1e6).toFixed(0), 7],
      [(bytes / peers).toFixed(0), 12],
      [slice_us, 10],
      [longest_us, 12],
      [filling_us, 35],
    ])
  }
}

/** @param {string} kind @param {number} swarms @param {number} peers */
function announce(kind, swarms, peers) {
  const { ns, best, told, joining } = measure('announces', kind, swarms, peers)
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
    [joining, 10],
  ])
}

/** Instructions of one announce. @param {string} kind @param {number} swarms @param {number} peers */
function counted(kind, swarms, peers) {
  const announces = 2_000
  const [none, some] = [0, announces].map((each) => {
    const what = ['announces', kind, swarms, peers, each, 1].map(String)
    const options = ['--tool=callgrind', '--callgrind-out-file=/dev/null', program, ...what]
    const { stderr } = spawnSync('valgrind', options, { encoding: 'utf8' })
    return Number(/Collected : (\d+)/.exec(stderr)?.[1])
  })
  return (Number(some) - Number(none)) / announces
}

/** @param {string} what @param {string} kind @param {number} swarms @param {number} peers */
function measure(what, kind, swarms, peers) {
  const { status, stdout, stderr } = spawnSync(program, [what, kind, `${swarms}`, `${peers}`], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${program} ended with ${status}: ${stderr}`)
  return JSON.parse(stdout)
}

/** @param {(string | number)[][]} columns of text and width; negative to the left */
function print(columns) {
  const cells = columns.map(([text, width]) =>
    Number(width) < 0 ? `  ${String(text).padEnd(-Number(width))}` : String(text).padStart(Number(width)),
  )
  console.log(cells.join(''))
}
