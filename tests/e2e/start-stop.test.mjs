// A server starts, says where it listens, and stops when told to.

import assert from 'node:assert/strict'
import { trial } from './testkit/lab.mjs'
import { Socket } from './testkit/socket.mjs'
import { Server } from './testkit/swarmgate.mjs'

const LISTENERS = ['web', 'admin', 'udp_tracker', 'dht', 'bittorrent', 'webrtc', 'stun']

trial('the ready line names every listener', async (lab) => {
  const server = await lab.server()
  assert.deepEqual(Object.keys(server.ready), ['event', ...LISTENERS])
  for (const listener of LISTENERS) {
    assert.match(/** @type {any} */ (server.ready)[listener], /^127\.0\.0\.1:[1-9]\d*$/, listener)
  }
  assert.equal(server.stdout.trim().split('\n').length, 1, 'standard output carries nothing else')
  for (const path of ['livez', 'readyz']) {
    assert.equal((await fetch(`http://${server.ready.admin}/${path}`)).status, 200, path)
    assert.equal((await fetch(`http://${server.ready.web}/${path}`)).status, 200, path)
  }
})

for (const signal of /** @type {const} */ (['SIGTERM', 'SIGINT'])) {
  trial(`${signal} stops the server at once and in order, also with clients connected`, async (lab) => {
    const server = await Server.start({ dataDir: await lab.directory() })
    lab.keep(server, { stop: async () => server.child.kill('SIGKILL') })
    const socket = await Socket.open(server.socket)
    const begun = Date.now()
    await server.stop(signal)
    const took = Date.now() - begun
    await socket.closed
    assert.ok(took < 5000, `it took ${took} ms`)
  })
}

trial('a server comes back on the same data directory', async (lab) => {
  const dataDir = await lab.directory()
  for (let run = 0; run < 2; run++) await (await Server.start({ dataDir })).stop()
})

trial('memory at rest is reported', async (lab) => {
  const server = await lab.server({ dht: await lab.dht() })
  assert.equal((await fetch(server.page)).status, 200)
  const { resident, own } = await server.memory()
  console.log(`memory at rest: ${resident.toFixed(1)} MiB resident, ${own.toFixed(1)} MiB of it heap and stacks`)
  assert.ok(resident < 38, 'less than 40 MB')
})
