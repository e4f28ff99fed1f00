// A thousand pinned sites of twenty files on one server: memory, processor time and DHT packets at rest, the time to start,
// and what one more costs, at ten and at a thousand. The bytes are on disk already, so what is measured is the pins.
//
// make bench-pins [SITES=1000]

import { createHash, randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import bencode from '../tests/e2e/testkit/bencode.mjs'
import { PinApi } from '../tests/e2e/testkit/pin_api.mjs'
import { Key, pointer } from '../tests/e2e/testkit/record.mjs'
import { Server } from '../tests/e2e/testkit/swarmgate.mjs'

const SITES = Number(process.env['SITES'] ?? 1000)
const FILES = 20
const FILE = 1024
const REST = 20 // seconds

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

/** @param {Server} server @param {PinApi} api */
async function addOne(server, api, dataDir = '') {
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

/** @param {Server} server */
async function packets(server) {
  const lines = (await server.metrics()).matchAll(/^swarmgate_dht_packets_total\{[^}]*\} (\d+)/gm)
  return [...lines].reduce((sum, [, n]) => sum + Number(n), 0)
}

const median = (/** @type {number[]} */ values) => values.sort((a, b) => a - b)[values.length >> 1] ?? 0
const dataDir = await mkdtemp(join(tmpdir(), 'swarmgate-bench-pins-'))
const env = { SWARMGATE__GOSSIP__LOCAL_DISCOVERY: 'false', RUST_LOG: 'warn' }
let server = await Server.start({ dataDir, env })
try {
  const api = await PinApi.of(server, null)
  const empty = await server.memory()
  /** @type {Record<string, { acknowledged: number[], pinned: number[] }>} */
  const costs = {}
  for (let n = 0; n < SITES; n++) {
    const cost = await addOne(server, api, dataDir)
    const near = n < 20 ? 'the first 20' : n >= SITES - 20 ? 'the last 20' : undefined
    if (near) {
      const kept = (costs[near] ??= { acknowledged: [], pinned: [] })
      kept.acknowledged.push(cost.acknowledged)
      kept.pinned.push(cost.pinned)
    }
  }
  for (const [which, { acknowledged, pinned }] of Object.entries(costs)) {
    console.log(
      `${which}: acknowledged in ${median(acknowledged).toFixed(1)} ms, pinned in ${median(pinned).toFixed(0)} ms`,
    )
  }
  const full = await server.memory()
  console.log(`memory: ${empty.own.toFixed(0)} MiB empty, ${full.own.toFixed(0)} MiB with ${SITES} sites`)
  await server.stop()
  const began = performance.now()
  server = await Server.start({ dataDir, env })
  console.log(`ready after ${((performance.now() - began) / 1000).toFixed(2)} s`)
  const again = await PinApi.of(server, null)
  const count = (await again.all()).filter((pin) => pin.status === 'pinned').length
  console.log(`${count} of ${SITES} pinned`)
  await pause(REST * 1000)
  const [before, sent] = [await cpu(server.child.pid), await packets(server)]
  await pause(REST * 1000)
  const spent = (await cpu(server.child.pid)) - before
  const rest = await server.memory()
  console.log(
    `at rest: ${((100 * spent) / REST).toFixed(1)} % of a core, ${(((await packets(server)) - sent) / REST).toFixed(1)} DHT packets/s, ${rest.own.toFixed(0)} MiB`,
  )
} finally {
  await server.stop('SIGKILL').catch(() => {})
  await rm(dataDir, { recursive: true, force: true })
}
