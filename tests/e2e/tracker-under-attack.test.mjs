// Floods and stalls at the tracker's doors. Whoever sends them is answered, told why not, or closed; a canary that
// announces all the while notices nothing, and memory stays bounded (the figure is printed).

import assert from 'node:assert/strict'
import { createHmac, randomBytes } from 'node:crypto'
import { createSocket } from 'node:dgram'
import { connect } from 'node:net'
import { Worker } from 'node:worker_threads'
import { latin1, percent, serves } from './testkit/canary.mjs'
import { trial } from './testkit/lab.mjs'
import { Socket } from './testkit/socket.mjs'
import { eventually, once, within } from './testkit/wait.mjs'

/** Slowest answer a canary takes for none, in ms: a loaded machine's stumble, not a stall of the server's. */
const NOTICED = 5_000

/** Most memory that any of this may leave in use, in MiB above what the server began with. */
const MEMORY = 160

/** A client in a thread of its own that announces again and again. */
class Canary {
  /** @param {import('./testkit/swarmgate.mjs').Server} server @param {import('./testkit/lab.mjs').Lab} lab */
  static async start(server, lab) {
    const thread = new Worker(new URL('testkit/singing_canary.mjs', import.meta.url), { workerData: server.socket })
    lab.keep(thread, { stop: async () => void (await thread.terminate()) })
    const failed = once(thread, 'error').then(([error]) => Promise.reject(error))
    failed.catch(() => {}) // told by whoever waits
    await within(20, 'reply to the canary', Promise.race([once(thread, 'message'), failed]))
    return new Canary(thread, failed)
  }

  /** @param {Worker} thread @param {Promise<never>} failed */
  constructor(thread, failed) {
    this.thread = thread
    this.failed = failed
  }

  /** How long it waited for replies, in ms: the slowest, and that in the middle. */
  async stop() {
    const told = once(this.thread, 'message')
    this.thread.postMessage('stop')
    const [waits] = await within(30, 'word from the canary', Promise.race([told, this.failed]))
    const sorted = waits.toSorted((/** @type {number} */ a, /** @type {number} */ b) => a - b)
    return { slowest: sorted.at(-1), middle: sorted[sorted.length >> 1] }
  }
}

/**
 * A trial whose body attacks while a canary announces.
 * @param {string} name
 * @param {(server: import('./testkit/swarmgate.mjs').Server, lab: import('./testkit/lab.mjs').Lab) => Promise<void>} attack
 */
function attack(name, attack) {
  trial(name, async (lab) => {
    const server = await lab.server()
    const before = await server.memory()
    const canary = await Canary.start(server, lab)
    await attack(server, lab)
    const { slowest, middle } = await canary.stop()
    await serves(server, name)
    const { own, peak } = await server.memory()
    console.log(
      `${name}: canary's slowest reply ${slowest.toFixed(0)} ms, median ${middle.toFixed(2)}; memory ${before.own.toFixed(0)} -> ${own.toFixed(0)} MiB, peak ${peak.toFixed(0)}`,
    )
    assert.ok(slowest < NOTICED, `the canary waited ${slowest} ms`)
    assert.ok(own - before.own < MEMORY, `${own} MiB after ${before.own}`)
  })
}

/** @param {object} [more] */
function announce(more) {
  const [info_hash, peer_id] = [latin1(randomBytes(20)), latin1(randomBytes(20))]
  return { action: 'announce', info_hash, peer_id, numwant: 0, left: 1, ...more }
}

attack('20,000 announces in a burst on one socket', async (server) => {
  const socket = await Socket.open(server.socket)
  const [known, all] = [announce(), 20_000]
  let answered = 0
  const answers = new Promise((resolve) => {
    socket.ws.on('message', () => {
      answered += 1
      if (answered === all) resolve(undefined)
    })
  })
  // Half of them of one peer, half of ever new ones, which are refused past the limit of a socket: all get a reply.
  for (let n = 0; n < all; n++) socket.send(JSON.stringify(n % 2 ? known : announce()))
  await within(60, 'reply to each announce', Promise.race([answers, socket.closed]))
  assert.equal(answered, all)
  await socket.close()
})

attack('10,000 offers in one announce, and as many announces with offers that nobody takes', async (server) => {
  const socket = await Socket.open(server.socket)
  const offer = (/** @type {number} */ size) => {
    return { offer: { type: 'offer', sdp: 'v'.repeat(size) }, offer_id: latin1(randomBytes(20)) }
  }
  const many = announce({ numwant: 10_000, offers: Array.from({ length: 2_000 }, () => offer(10)) })
  const reply = await socket.reply(many, (message) => message.info_hash === many.info_hash)
  assert.equal(reply.incomplete, 1)
  await socket.close()

  // 10,000 are more than a message may have: the socket is told so.
  const flood = await Socket.open(server.socket)
  flood.send(JSON.stringify(announce({ offers: Array.from({ length: 10_000 }, () => offer(10)) })))
  await within(20, 'end of the socket', flood.closed)

  // Two peers of a swarm, one of which never answers: what waits for it stays bounded.
  const [busy, silent] = [await Socket.open(server.socket), await Socket.open(server.socket)]
  const info_hash = latin1(randomBytes(20))
  await silent.reply(announce({ info_hash }), (message) => message.info_hash === info_hash)
  for (let n = 0; n < 1_000; n++) {
    const offers = Array.from({ length: 10 }, () => offer(1_000))
    busy.send(JSON.stringify(announce({ info_hash, peer_id: latin1(Buffer.alloc(20, 7)), numwant: 10, offers })))
  }
  await busy.reply(announce(), (message) => message.interval && message.info_hash !== info_hash)
  await Promise.all([busy.close(), silent.close()])
})

attack('every field of every type', async (server) => {
  const socket = await Socket.open(server.socket)
  const wrong = [null, true, 0, -1, 1e300, '', 'x'.repeat(20), '\u{1f600}'.repeat(20), [], [[]], {}, { a: { a: {} } }]
  const offer = { offer: { type: 'offer', sdp: 'x' }, offer_id: latin1(randomBytes(20)) }
  const answer = { answer: { type: 'answer', sdp: 'x' }, to_peer_id: offer.offer_id, offer_id: offer.offer_id }
  const messages = [
    announce({ event: 'started', offers: [offer] }),
    announce(answer),
    { action: 'scrape', info_hash: 'x' },
  ]
  for (const message of messages) {
    for (const field of Object.keys(message)) {
      for (const value of wrong) socket.send(JSON.stringify({ ...message, [field]: value }))
    }
  }
  for (const value of wrong) {
    socket.send(
      JSON.stringify(announce({ offers: [value, offer, { ...offer, offer: value }, { ...offer, offer_id: value }] })),
    )
    socket.send(JSON.stringify(announce({ ...answer, answer: { sdp: value } })))
    socket.send(JSON.stringify({ action: 'scrape', info_hash: [value] }))
  }
  const after = announce()
  await socket.reply(after, (message) => message.info_hash === after.info_hash && message.interval)
  await socket.close()
})

attack('text that is no JSON, and JSON of any depth', async (server) => {
  const real = JSON.stringify(announce({ offers: [{ offer: { type: 'offer', sdp: 'x' }, offer_id: 'x'.repeat(20) }] }))
  const deep = (/** @type {number} */ depth) => [
    '['.repeat(depth),
    '{"a":'.repeat(depth),
    `{"action":${'['.repeat(depth)}`,
  ]
  const cut = Array.from({ length: real.length }, (_, length) => real.slice(0, length))
  const frames = [...cut, ...deep(10), ...deep(1_000), ...deep(40_000), 'null', '\u0000', `${real}${real}`, `${real},`]
  for (let round = 0; round < 20; round++) {
    const socket = await Socket.open(server.socket)
    for (const frame of frames) socket.send(frame)
    // None of these is worth a closed socket: each is answered with what is wrong.
    const after = announce()
    await socket.reply(after, (message) => message.info_hash === after.info_hash && message.interval)
    await socket.close()
  }
})

attack('slow readers, slow handshakes and half-open sockets', async (server, lab) => {
  const { host, port } = server.web
  const upgrade =
    'GET /announce HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n' +
    'sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n'
  const raw = async (/** @type {string} */ text) => {
    const socket = connect(port, host)
    socket.on('error', () => {}) // being closed is what they are here for
    await within(10, 'TCP connection', once(socket, 'connect'))
    socket.write(text)
    return lab.keep(socket, { stop: async () => socket.destroy() })
  }
  for (let n = 0; n < 300; n++) await raw(n % 3 ? '' : upgrade.slice(0, 40)) // nothing, or a head that never ends
  for (let n = 0; n < 100; n++) (await raw(upgrade)).pause() // upgraded, and never heard of again

  // Asks for more than it reads.
  const slow = await raw(upgrade)
  slow.pause()
  const scrape = JSON.stringify({
    action: 'scrape',
    info_hash: Array.from({ length: 150 }, () => latin1(randomBytes(20))),
  })
  const asked = frame(1, Buffer.from(scrape))
  let open = true
  slow.on('close', () => {
    open = false
  })
  for (let n = 0; n < 3_000 && open; n++) slow.write(asked)
  await within(20, 'announce beside it', serves(server, 'a slow reader'))
})

attack('a flood of pings', async (server) => {
  const { host, port } = server.web
  const socket = await Socket.open(server.socket)
  assert.ok(host && port)
  let pongs = 0
  socket.ws.on('pong', () => {
    pongs += 1
  })
  for (let n = 0; n < 50_000; n++) socket.ws.ping(Buffer.alloc(100))
  const after = announce()
  await socket.reply(after, (message) => message.info_hash === after.info_hash)
  assert.ok(pongs > 0)
  await socket.close()
})

attack('forged UDP connection ids', async (server) => {
  const [host = '', port] = server.ready.udp_tracker.split(':')
  const udp = createSocket('udp4')
  const infoHash = randomBytes(20)
  let refused = 0
  let others = 0
  udp.on('message', (message) => {
    if (message.readUInt32BE(0) === 3) refused += 1
    else others += 1
  })
  udp.connect(Number(port), host)
  await within(5, 'UDP socket', once(udp, 'connect'))
  for (let n = 0; n < 5_000; n++) {
    const id = createHmac('sha1', 'guess').update(`${n}`).digest().subarray(0, 8)
    const head = Buffer.concat([id, Buffer.from([0, 0, 0, 1, 0, 0, 0, 9]), infoHash, randomBytes(20), Buffer.alloc(32)])
    udp.send(Buffer.concat([head, Buffer.from([0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x1a, 0xe1])]))
    if (n % 100 === 0) await new Promise((resolve) => setImmediate(resolve))
  }
  await eventually(10, 'refusal of a forged connection id', () => refused > 0 || null)
  const scrape = await fetch(`http://${server.ready.web}/scrape?info_hash=${percent(infoHash)}`)
  assert.match(await scrape.text(), /completei0e10:downloadedi0e10:incompletei0e/, 'none of them counts')
  assert.equal(others, 0)
  udp.close()
})

trial('one client behind a trusted proxy is held to its limits, and others behind it are not', async (lab) => {
  const server = await lab.server({
    env: {
      SWARMGATE__WEB__TRUSTED_PROXIES: '["127.0.0.1"]',
      SWARMGATE__TRACKER__MAX_SOCKETS_PER_ADDRESS: '2',
      SWARMGATE__TRACKER__MAX_ANNOUNCES_PER_SECOND: '1', // twenty at once
      SWARMGATE__TRACKER__MAX_PEERS_PER_ADDRESS: '3',
    },
  })
  const [greedy, modest] = ['198.51.100.7', '198.51.100.8']
  const headers = (/** @type {string} */ client) => ({ 'x-forwarded-for': `6.6.6.6, ${client}` })
  const answers = async (/** @type {string} */ client, /** @type {number} */ times) => {
    const texts = []
    for (let n = 0; n < times; n++) {
      const query = `info_hash=${percent(randomBytes(20))}&peer_id=${percent(randomBytes(20))}&port=6001&left=1`
      const answer = await fetch(`http://${server.ready.web}/announce?${query}`, { headers: headers(client) })
      texts.push(await answer.text())
    }
    return texts
  }
  const refused = (await answers(greedy, 40)).filter((text) => text.includes('this address announces too often'))
  assert.ok(refused.length > 0 && refused.length <= 20, `${refused.length} refused`)
  // Native peers are counted by themselves: three new ones, and what is there already may always announce again.
  const [first, second, third, ...more] = await answers(modest, 5)
  assert.ok([first, second, third].every((text) => text?.startsWith('d8:complete')))
  assert.ok(more.every((text) => text.includes('as many peers as it may')))

  const sockets = [await Socket.open(server.socket, headers(modest)), await Socket.open(server.socket, headers(modest))]
  const oneMore = await Socket.open(server.socket, headers(modest))
  await within(10, 'end of the third socket', oneMore.closed)
  await (await Socket.open(server.socket, headers('198.51.100.9'))).close()
  const [one, two] = /** @type {[Socket, Socket]} */ (sockets)
  for (const [socket, taken] of /** @type {[Socket, boolean][]} */ ([
    [one, true],
    [one, true],
    [two, true],
    [two, false],
  ])) {
    const request = announce()
    const reply = await socket.reply(request, (message) => message.info_hash === request.info_hash)
    assert.equal('failure reason' in reply, !taken, JSON.stringify(reply))
  }
  await Promise.all(sockets.map((socket) => socket.close()))
})

/** A masked frame (RFC 6455 §5.2), with a mask of zeros. @param {number} opcode @param {Buffer} payload */
function frame(opcode, payload) {
  const length = Buffer.alloc(2)
  length.writeUInt16BE(payload.length)
  return Buffer.concat([Buffer.from([0x80 | opcode, 0x80 | 126]), length, Buffer.alloc(4), payload])
}
