// What was acknowledged is there after a kill, and what a full or broken disk does; two devices that publish at once get one winner and one clear conflict.

import assert from 'node:assert/strict'
import { rm, stat, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Followers } from './testkit/follower.mjs'
import { trial } from './testkit/lab.mjs'
import { Key, pointer } from './testkit/record.mjs'
import { Socket } from './testkit/socket.mjs'
import { Server, environment, run } from './testkit/swarmgate.mjs'
import { within } from './testkit/wait.mjs'

/** @typedef {{ k: Buffer, v: Buffer, seq: number, salt?: Buffer | undefined, sig: Buffer }} Item */

/** A record as a message has it. @param {Item} item */
const fields = ({ k, v, seq, salt, sig }) => ({
  k: k.toString('hex'),
  ...(salt && { salt: salt.toString('hex') }),
  seq,
  v: v.toString('hex'),
  sig: sig.toString('hex'),
})

const value = (/** @type {number} */ n) => pointer(n.toString(16).padStart(2, '0').repeat(20))

trial('every put that was acknowledged is there after a kill', async (lab) => {
  const dataDir = await lab.directory()
  const server = await Server.start({ dataDir })
  const key = new Key()
  const socket = await Socket.open(server.socket)
  /** The newest acknowledged number of each of eight records. @type {Map<number, number>} */
  const acknowledged = new Map()
  const put = (/** @type {number} */ n, /** @type {number} */ seq) => {
    const item = key.record({ v: value(seq % 200), seq, salt: Buffer.from([n]) })
    // Half of them with `cas`, which are kept in another order.
    const cas = n % 2 === 1 && seq > 1 ? { cas: seq - 1 } : {}
    socket.send(JSON.stringify({ action: 'dht_put', id: `${n}`, ...fields(item), ...cas }))
  }
  const enough = new Promise((resolve) => {
    let acknowledgements = 0
    socket.ws.on('message', (data) => {
      const { id, seq, ...reply } = JSON.parse(String(data))
      assert.equal(reply['failure reason'], undefined)
      acknowledged.set(Number(id), seq)
      if (++acknowledgements === 100) resolve(undefined)
      put(Number(id), seq + 1)
    })
  })
  for (let n = 0; n < 8; n++) put(n, 1)
  await within(60, 'a hundred acknowledged puts', enough)
  server.child.kill('SIGKILL')
  await within(10, 'end of the killed server', server.exit)

  const again = await lab.server({ dataDir })
  const reader = await Socket.open(again.socket)
  for (const [n, seq] of acknowledged) {
    const salt = Buffer.from([n]).toString('hex')
    const found = await reader.ask({ action: 'dht_get', k: key.hex, salt, mode: 'cache_only' })
    assert.ok(found.found && found.seq >= seq, `record ${n}: ${seq} was acknowledged, ${found.seq} is there`)
  }
  await reader.close()
})

trial('a full disk: puts are refused in words, the rest is served, and all goes on once there is room', async (lab) => {
  const dataDir = await lab.directory()
  // The server has a small disk of its own, in a mount namespace of its own. Needs root.
  const disk = `mount -t tmpfs -o size=3m swarmgate "$SWARMGATE__DATA_DIR" && exec "$@"`
  const server = await lab.server({ dataDir, via: ['unshare', '--mount', 'sh', '-c', disk, 'sh'] })
  const [author, reader] = await Promise.all([Socket.open(server.socket), Socket.open(server.socket)])
  const key = new Key()
  const put = (/** @type {number} */ seq) => fields(key.record({ v: value(seq), seq }))
  assert.equal((await author.ask({ action: 'dht_put', ...put(1) })).seq, 1)
  assert.equal((await reader.ask({ action: 'dht_subscribe', k: key.hex })).seq, 1)
  const told = reader.reply({ action: 'dht_info', id: 'now' }, (message) => message.action === 'dht_update')

  const ballast = `/proc/${server.child.pid}/root${dataDir}/ballast`
  await assert.rejects(writeFile(ballast, Buffer.alloc(8 << 20)), { code: 'ENOSPC' })
  // What the log had room for already may still be taken.
  let refused
  let seq = 1
  while (!refused && seq < 200) {
    const reply = await author.ask({ action: 'dht_put', ...put(seq + 1) })
    if (reply['failure reason'] === undefined) seq++
    else refused = reply
  }
  assert.equal(refused?.code, 202, JSON.stringify(refused))
  assert.match(refused['failure reason'], /^the record could not be written to disk: .*full/)
  const withCas = await author.ask({ action: 'dht_put', ...put(seq + 1), cas: seq })
  assert.equal(withCas.code, 202, JSON.stringify(withCas))
  assert.match(withCas['failure reason'], /^the record could not be written to disk: .*full/)
  const body = JSON.stringify(put(seq + 1))
  const overHttp = await fetch(`http://${server.ready.web}/v1/records/${key.hex}`, { method: 'PUT', body })
  assert.equal(overHttp.status, 503)
  assert.match((await overHttp.json()).error, /could not be written to disk/)
  assert.equal((await reader.ask({ action: 'dht_get', k: key.hex })).seq, seq, 'what was refused has not happened')
  assert.match(await server.metrics(), /swarmgate_records_write_failures_total [1-9]/)

  await rm(ballast)
  const again = await author.ask({ action: 'dht_put', ...put(seq + 1) })
  assert.equal(again['failure reason'], undefined, JSON.stringify(again))
  await told
  assert.equal((await reader.ask({ action: 'dht_get', k: key.hex })).seq, seq + 1)
  await Promise.all([author.close(), reader.close()])
})

trial('a record store that was cut short is not taken for an empty one', async (lab) => {
  const dataDir = await lab.directory()
  const server = await Server.start({ dataDir })
  const key = new Key()
  const author = await Socket.open(server.socket)
  for (let n = 0; n < 20; n++) {
    const item = key.record({ v: value(n), seq: 1, salt: Buffer.alloc(64, n) })
    assert.equal((await author.ask({ action: 'dht_put', ...fields(item) })).seq, 1)
  }
  await author.close()
  await server.stop()
  const file = join(dataDir, 'records.sqlite')
  await truncate(file, (await stat(file)).size - 4096)
  const { code, stderr } = await run(['serve'], { env: environment(dataDir, []) })
  assert.equal(code, 1)
  assert.match(stderr, /records\.sqlite is damaged \(.*\): put a backup in its place, or move it away/)
})

trial('two devices that publish at once: one winner, one clear conflict', async (lab) => {
  const server = await lab.server()
  const key = new Key()
  const devices = await Promise.all([Socket.open(server.socket), Socket.open(server.socket)])
  const [first] = devices
  const follower = await Socket.open(server.socket)
  await first.ask({ action: 'dht_put', ...fields(key.record({ v: value(0), seq: 1 })) })
  assert.equal((await follower.ask({ action: 'dht_subscribe', k: key.hex })).seq, 1)
  const told = follower.reply({ action: 'dht_info', id: 'now' }, (message) => message.action === 'dht_update')

  const versions = [value(1), value(2)].map((v) => fields(key.record({ v, seq: 2 })))
  const replies = await Promise.all(
    devices.map((device, n) => device.ask({ action: 'dht_put', ...versions[n], cas: 1 })),
  )
  const won = replies.findIndex((reply) => reply['failure reason'] === undefined)
  const lost = 1 - won
  assert.equal(replies.filter((reply) => reply['failure reason'] === undefined).length, 1, JSON.stringify(replies))
  assert.equal(replies[lost].code, 301)
  assert.deepEqual(replies[lost].current, versions[won])
  assert.equal((await told).v, versions[won]?.v)
  assert.equal((await first.ask({ action: 'dht_get', k: key.hex })).v, versions[won]?.v)
  await Promise.all([...devices, follower].map((socket) => socket.close()))
})

const RACES = 5

trial(
  'two devices that publish at once through two servers, which share a DHT: one winner, one clear conflict',
  async (lab) => {
    const dht = await lab.dht()
    // Nothing but the DHT brings a version from one server to the other.
    const env = { SWARMGATE__GOSSIP__ENABLED: 'false' }
    const servers = await Promise.all([lab.server({ dht, env }), lab.server({ dht, env })])
    const devices = await Promise.all(servers.map((server) => Socket.open(server.socket)))
    const [home, away] = devices
    assert.ok(home && away)
    for (let race = 0; race < RACES; race++) {
      const key = new Key()
      assert.ok((await home.ask({ action: 'dht_put', ...fields(key.record({ v: value(0), seq: 1 })) })).stored > 0)
      assert.equal((await away.ask({ action: 'dht_get', k: key.hex, mode: 'network' })).seq, 1)
      const followers = await Promise.all(servers.map((server) => Followers.of(lab, server, key.public)))
      const versions = [value(1), value(2)].map((v) => fields(key.record({ v, seq: 2 })))
      // The larger value once from either side.
      if (race % 2) versions.reverse()
      const replies = await Promise.all(
        devices.map((device, n) => device.ask({ action: 'dht_put', ...versions[n], cas: 1 })),
      )
      const codes = replies.map((reply) => reply.code ?? 'stored')
      lab.note(`race ${race}: ${codes.join(', ')}`)
      assert.deepEqual(codes.toSorted(), [301, 'stored'], JSON.stringify(replies))
      const won = codes.indexOf('stored')
      assert.deepEqual(replies[1 - won].current, versions[won])

      // Nobody publishes again: this race alone has to reach everybody, and nobody may be shown what lost.
      for (const [n, those] of followers.entries()) {
        await those.heard(2)
        for (const [way, told] of Object.entries(those.told)) {
          const second = told.filter(({ seq }) => seq === 2).map(({ v }) => v)
          assert.deepEqual(new Set(second), new Set([versions[won]?.v]), `race ${race}, ${way} at server ${n}`)
        }
      }
      for (const device of devices) {
        assert.equal((await device.ask({ action: 'dht_get', k: key.hex, mode: 'cache_only' })).v, versions[won]?.v)
      }
    }
    await Promise.all(devices.map((device) => device.close()))
  },
)
