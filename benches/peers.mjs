// Many WebRTC peers on the server's one UDP port, that have a torrent in common with it and say nothing: how fast they
// connect, and what each costs in memory and all of them in processor time at rest. The generator is rtcload.rs.
//
//   node benches/peers.mjs [--peers 500] [--torrents 5] [--rest 20] [--rounds 3]

import { spawn } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as pause } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { noise } from '../tests/e2e/testkit/content.mjs'
import { Lab } from '../tests/e2e/testkit/lab.mjs'
import { eventually, once, within } from '../tests/e2e/testkit/wait.mjs'
import { processorTime, spread, top } from './kit.mjs'

const GENERATOR = join(top, 'target/debug/examples/rtcload')

const { values } = parseArgs({
  options: {
    peers: { type: 'string', default: '500' },
    torrents: { type: 'string', default: '5' },
    rest: { type: 'string', default: '20' },
    rounds: { type: 'string', default: '3' },
  },
})
const [PEERS, TORRENTS, REST] = [Number(values.peers), Number(values.torrents), Number(values.rest)]

/** @type {Record<string, number[]>} */
const figures = {}
for (let round = 0; round < Number(values.rounds); round++) {
  const lab = new Lab()
  try {
    const found = await measure(lab)
    console.log(JSON.stringify(found))
    for (const [name, figure] of Object.entries(found)) (figures[name] ??= []).push(figure)
  } catch (error) {
    console.log(lab.account())
    throw error
  } finally {
    await lab.close()
  }
}
console.log(`\n${PEERS} peers in ${TORRENTS} torrents, ${values.rounds} rounds: median (least to most)`)
for (const [name, samples] of Object.entries(figures)) {
  const { median, least, most } = spread(samples)
  console.log(`  ${name}: ${median.toFixed(2)} (${least.toFixed(2)} to ${most.toFixed(2)})`)
}

/** @param {Lab} lab @returns {Promise<Record<string, number>>} */
async function measure(lab) {
  const dht = await lab.dht()
  const seeder = await lab.libtorrent(dht)
  /** @type {string[]} */
  const torrents = []
  for (let n = 0; n < TORRENTS; n++) {
    const file = join(await lab.directory(), `content-${n}.bin`)
    await writeFile(file, noise(1_000_000, n))
    const { info_hash: infoHash } = await seeder.seed(file)
    const announced = dht.announced(infoHash)
    await seeder.announce(infoHash)
    await announced
    torrents.push(infoHash)
  }
  const server = await lab.server({
    dht,
    env: {
      SWARMGATE__BRIDGE__POLICY: 'open',
      SWARMGATE__BRIDGE__MAX_PEERS_PER_TORRENT: `${PEERS}`,
      SWARMGATE__BRIDGE__MAX_PEERS: `${PEERS * 2}`,
      SWARMGATE__BRIDGE__MAX_PEERS_PER_ADDRESS: `${PEERS * 2}`,
      RUST_LOG: 'warn',
    },
  })
  // One peer of each torrent first, so that the torrents themselves are not counted as peers.
  const first = await generator(lab, server.socket, torrents, TORRENTS)
  if (first.connected !== TORRENTS) throw new Error('not even the first peers connected')
  await eventually(60, 'torrents downloaded', async () => (await served(server)) >= TORRENTS * 1e6 || null)
  const pid = server.child.pid ?? 0
  const before = { memory: await resident(pid), cpu: await processorTime(pid) }
  const { connected, seconds, p50_ms, p99_ms } = await generator(lab, server.socket, torrents, PEERS)
  const opened = { memory: await resident(pid), cpu: await processorTime(pid) }
  await pause(REST * 1000) // what is measured is rest
  const rested = { memory: await resident(pid), cpu: await processorTime(pid) }
  const still = /bridge_peers\{transport="webrtc"\} (\d+)/.exec(await server.metrics())?.[1]
  return {
    connected: connected,
    'still connected after the rest': Number(still) - TORRENTS,
    'connections a second': connected / seconds,
    'until the handshake, half of them, ms': p50_ms,
    'until the handshake, 99 %, ms': p99_ms,
    'processor ms for each to connect': ((opened.cpu - before.cpu) * 1000) / connected,
    'KiB for each, right after': (opened.memory - before.memory) / 1024 / connected,
    'KiB for each, after the rest': (rested.memory - before.memory) / 1024 / connected,
    'processor at rest, % of a core': ((rested.cpu - opened.cpu) / REST) * 100,
  }
}

/** @param {Lab} lab @param {string} tracker @param {string[]} torrents @param {number} peers */
async function generator(lab, tracker, torrents, peers) {
  const args = ['--tracker', tracker, '--torrents', torrents.join(','), '--peers', `${peers}`]
  const child = spawn(GENERATOR, args, { stdio: ['pipe', 'pipe', 'inherit'] })
  lab.keep(child, { stop: async () => child.kill('SIGKILL') })
  const [line] = await within(200, 'connected peers', once(createInterface({ input: child.stdout }), 'line'))
  return JSON.parse(line)
}

/** Bytes that came from native peers. @param {import('../tests/e2e/testkit/swarmgate.mjs').Server} server */
async function served(server) {
  const came = /bridge_bytes_total\{direction="in",transport="tcp"\} (\d+)/.exec(await server.metrics())?.[1]
  return Number(came ?? 0)
}

/** Bytes in memory. @param {number} pid */
async function resident(pid) {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1]) * 1024
}
