// Bad records by the ways that have no reply to put a code in: a DHT node's answer, a peer over TCP, a peer in a page. And
// whatever the way, nobody who follows the record is ever told of one.

import assert from 'node:assert/strict'
import bencode from 'bencode'
import { badRecords, current, record } from './testkit/bad_records.mjs'
import { serves } from './testkit/canary.mjs'
import { Followers } from './testkit/follower.mjs'
import { Krpc } from './testkit/krpc.mjs'
import { trial } from './testkit/lab.mjs'
import { Liar } from './testkit/liar.mjs'
import { Peer } from './testkit/peer.mjs'
import { Key, pointer, target } from './testkit/record.mjs'
import { Socket } from './testkit/socket.mjs'
import { eventually, within } from './testkit/wait.mjs'

/** @typedef {import('./testkit/swarmgate.mjs').Server} Server */
/** @typedef {import('./testkit/bad_records.mjs').Bad} Bad */
/** @typedef {import('./testkit/bad_records.mjs').Put} Put */

trial('whatever a node of the DHT answers, what is served is the record', async (lab) => {
  const lies = badRecords().refused.flatMap(({ code, put }, row) => (code !== 301 && !put.salt ? [row] : []))
  // Few rows for each, or the pace that is kept with one node makes them wait.
  await Promise.all([0, 1, 2, 3, 4].map((part) => liedTo(lies.filter((_, index) => index % 5 === part))))

  /** @param {number[]} rows */
  async function liedTo(rows) {
    const liar = await Liar.start()
    lab.keep(liar, liar)
    const server = await lab.server({ bootstrap: [liar.address] })
    await Promise.all(rows.map((row) => believes(server, liar, row)))
    await serves(server, 'lies of a DHT node')
  }
})

/** @param {Server} server @param {Liar} liar @param {number} row */
async function believes(server, liar, row) {
  const { key, good, refused } = badRecords()
  const { what, put: lie, code } = /** @type {Bad} */ (refused[row])
  const at = target(key.public)
  const url = `http://${server.ready.web}/v1/records/${key.hex}?mode=network`
  if (code < 300) {
    liar.tell(at, lie)
    assert.equal((await fetch(url)).status, 404, `${what}: nobody has it`)
    assert.ok(liar.told(at) > 0, `${what}: the node was asked`)
  }
  assert.equal((await put(server, good)).status, 200, what)
  liar.tell(at, lie)
  const answer = await eventually(20, `lookup after ${what}`, async () => {
    const answer = await fetch(url)
    return liar.told(at) > 0 ? answer : null
  })
  assert.deepEqual(current(await answer.json()), record(good), what)
}

trial('a bad record from a peer over TCP ends the connection or is ignored, and goes nowhere', async (lab) => {
  const server = await lab.server()
  const { key, good, refused } = badRecords()
  await put(server, good)
  const followers = await Followers.of(lab, server, key.public)
  const bystander = await greet(server, key)
  lab.keep(bystander, { stop: async () => bystander.close() })
  bystander.have(good)
  for (const { what, put: bad, gossip } of refused.filter(({ gossip }) => gossip !== 'takes')) {
    const peer = await greet(server, key)
    lab.keep(peer, { stop: async () => peer.close() })
    peer.bring(bad)
    // It asks for what there is: the answer, or the end of the connection, comes after the bad one was judged.
    const brought = peer.brought()
    peer.have({ k: key.public })
    const outcome = await Promise.race([peer.closed, brought.catch(() => peer.closed)])
    if (gossip === 'closes') assert.equal(outcome, 'closed', what)
    else assert.deepEqual(outcome, { k: good.k, seq: 5, v: good.v, sig: good.sig }, what)
    peer.close()
  }
  await nothingButTheGood(server, followers, { key, good }, async () => (await bystander.brought()).seq)
  assert.deepEqual(
    bystander.heard.filter((message) => message.msg_type === 1).map((message) => message.seq),
    [7],
    'peers were told of nothing else',
  )
})

trial('a bad record from a peer in a page ends the connection or is ignored, and goes nowhere', async (lab) => {
  const browser = await lab.browser()
  const site = await lab.webTorrentSite()
  // What ends the connection shuts the page's address out, so each needs a server; two of them will do, since the door is the
  // same for all transports.
  for (const code of [206, 205]) {
    const server = await lab.server()
    const { key, good, refused } = badRecords()
    await put(server, good)
    const followers = await Followers.of(lab, server, key.public)
    const ignored = refused.filter(({ gossip }) => gossip === 'ignores')
    const last = refused.find((bad) => bad.gossip === 'closes' && bad.code === code)
    assert.ok(last)
    const page = await site.open(browser)
    await page.evaluate(
      ({ socket, infoHash, records }) => {
        const { client } = /** @type {any} */ (window)
        const bytes = (/** @type {string} */ hex) =>
          Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16))
        const torrent = client.add(infoHash, { announce: [socket] })
        torrent.on('wire', (/** @type {any} */ wire) => {
          class Exchange {
            onExtendedHandshake() {
              for (const record of records) wire.extended('sg_record', bytes(record))
            }
          }
          Object.defineProperty(Exchange.prototype, 'name', { value: 'sg_record' })
          wire.use(Exchange)
          wire.on('close', () => Object.assign(window, { ended: true }))
        })
      },
      {
        socket: server.socket,
        infoHash: target(key.public).toString('hex'),
        records: [...ignored, last].map(({ put }) => Buffer.from(bencode.encode(Peer.message(put))).toString('hex')),
      },
    )
    await eventually(60, `end of the connection after ${last.what}`, () =>
      page.evaluate(() => /** @type {any} */ (window).ended ?? null),
    )
    await page.context().close()
    const metrics = await server.metrics()
    assert.match(metrics, /^swarmgate_gossip_records_total\{result="forged"\} 1$/m, metrics)
    await nothingButTheGood(server, followers, { key, good })
  }
})

trial('what is refused, or said again, by WebSocket, HTTP and DHT is news to nobody', async (lab) => {
  const server = await lab.server()
  const { key, good, refused } = badRecords()
  const followers = await Followers.of(lab, server, key.public)
  await put(server, good)
  await followers.heard(5)
  const socket = await Socket.open(server.socket)
  const krpc = await Krpc.open(server.dht)
  lab.keep(krpc, { stop: async () => krpc.close() })
  /** @type {Put[]} */
  const puts = [...refused.map(({ put }) => put), good]
  for (const bad of puts) {
    await socket.ask({ action: 'dht_put', ...record(bad) })
    await put(server, bad)
    const { k, seq, sig, v, salt, cas } = bad
    const { r } = await krpc.query('get', { target: target(k, salt) })
    const given = { k, seq, sig, token: r.token, ...(salt && { salt }), ...(cas !== undefined && { cas }) }
    await krpc.queryRaw('put', given, v)
  }
  await socket.close()
  await nothingButTheGood(server, followers, { key, good })
})

/**
 * A newer version that is in order comes last, so what had come before it would have been seen by then.
 * @param {Server} server @param {Followers} followers @param {{ key: Key, good: Put }} of
 * @param {() => Promise<number>} [elsewhere]  who else is to hear of it
 */
async function nothingButTheGood(server, followers, { key, good }, elsewhere) {
  const next = key.record({ v: pointer('7c'.repeat(20)), seq: 7 })
  const heard = elsewhere?.()
  assert.equal((await put(server, next)).status, 200)
  await followers.heard(7)
  if (heard) assert.equal(await heard, 7)
  const versions = [good, next].map((item) => {
    const { seq, v, sig } = record(item)
    return { seq, v, sig }
  })
  assert.deepEqual(followers.told, { subscription: versions, announce: versions, events: versions })
  await serves(server, 'bad records')
}

/** As a peer of the record's swarm, which the server joins when it hears of the record. @param {Server} server @param {Key} key */
function greet(server, key) {
  return eventually(20, 'greeting in the topic swarm', () =>
    Peer.greet(server.bittorrent, target(key.public)).catch(() => null),
  )
}

/** @param {Server} server @param {Put} bad */
function put(server, bad) {
  const body = JSON.stringify(record(bad))
  return within(
    20,
    'answer to a put',
    fetch(`http://${server.ready.web}/v1/records/${record(bad).k}`, { method: 'PUT', body }),
  )
}
