// Records in announces, for pages whose WebTorrent client is as it always was: the stock tracker client announces to the
// record's target, with one field more, and is told of each newer version in what it takes for replies.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import Tracker from 'bittorrent-tracker'
import { trial } from './testkit/lab.mjs'
import { Key, pointer, target } from './testkit/record.mjs'
import { Socket } from './testkit/socket.mjs'
import { once, within } from './testkit/wait.mjs'

trial('a stock tracker client follows a record by its announces', async (lab) => {
  const server = await lab.server()
  const key = new Key()
  const author = await Socket.open(server.socket)
  const put = async (/** @type {number} */ seq) => {
    const { k, v, sig } = key.record({ v: pointer(`${seq}0`.repeat(20)), seq })
    const record = { k: k.toString('hex'), seq, v: v.toString('hex'), sig: sig.toString('hex') }
    assert.equal((await author.ask({ action: 'dht_put', ...record })).seq, seq)
    return record
  }
  const first = await put(1)

  let has = 0
  const client = new Tracker({
    announce: server.socket,
    infoHash: target(key.public),
    peerId: randomBytes(20),
    port: 6881,
    getAnnounceOpts: () => ({ bep46: { k: key.hex, ...(has > 0 && { seq: has }) } }),
  })
  lab.keep(client, { stop: async () => client.destroy() })
  /** @type {unknown[]} */
  const peers = []
  client.on('peer', (/** @type {{ destroy(): void }} */ peer) => peers.push(peer.destroy()))
  /** @type {string[]} */
  const warnings = []
  client.on('warning', (/** @type {Error} */ warning) => warnings.push(warning.message))
  const told = (/** @type {number} */ seq) => once(client, 'update', ({ bep46 }) => bep46?.seq === seq)

  const one = told(1)
  client.start({ left: 1, numwant: 0 })
  const [reply] = await within(20, 'version 1 in a reply', one)
  assert.deepEqual(reply.bep46, first)
  assert.deepEqual([reply.complete, reply.incomplete], [0, 1], 'the announce is answered as ever')

  // Pushed, with no announce in between.
  const two = told(2)
  const second = await put(2)
  assert.deepEqual((await within(20, 'version 2, pushed', two))[0].bep46, second)

  // Whoever has the newest is told nothing until there is a newer one.
  has = 2
  /** @type {number[]} */
  const since = []
  client.on('update', (/** @type {any} */ { bep46 }) => bep46 && since.push(bep46.seq))
  const answered = once(client, 'update')
  client.update({ left: 1, numwant: 0 })
  await within(20, 'reply to the next announce', answered)
  const three = told(3)
  await put(3)
  await within(20, 'version 3, pushed', three)
  assert.deepEqual(since, [3])
  assert.deepEqual(warnings, [])
  assert.equal(peers.length, 0, 'who asks for no peers, and follows, is given none')
  await author.close()
})
