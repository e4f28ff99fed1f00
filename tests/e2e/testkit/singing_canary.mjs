// A thread of its own, so that what it waits for is the server and not the attack that its parent prepares: it announces
// over a socket of its own, again and again, until it is told to stop, and then says how long the slowest reply took.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { parentPort, workerData } from 'node:worker_threads'
import { latin1 } from './canary.mjs'
import { Socket } from './socket.mjs'

const parent = parentPort
if (!parent) throw new Error('this is a thread of a trial')
let singing = true
parent.once('message', () => {
  singing = false
})

const socket = await Socket.open(workerData)
const info_hash = latin1(randomBytes(20))
const announce = { action: 'announce', info_hash, peer_id: latin1(randomBytes(20)), numwant: 0, left: 1 }
const waits = []
while (singing) {
  const start = performance.now()
  const reply = await socket.reply(announce, (message) => message.info_hash === info_hash)
  assert.equal(reply.incomplete, 1)
  waits.push(performance.now() - start)
  if (waits.length === 1) parent.postMessage('sings')
}
await socket.close()
parent.postMessage(waits)
