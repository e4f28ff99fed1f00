// Junk at every door: whoever sends it gets a sentence, an error code or a closed connection, and everybody else goes on.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { connect } from 'node:net'
import { latin1, percent, serves } from './testkit/canary.mjs'
import { Krpc } from './testkit/krpc.mjs'
import { trial } from './testkit/lab.mjs'
import { Socket } from './testkit/socket.mjs'
import { once, within } from './testkit/wait.mjs'

const ID = latin1(randomBytes(20))

/** Text that is no request: the socket is told, or closed. */
const FRAMES = [
  '',
  '{',
  'null',
  '[]',
  '5',
  '"announce"',
  'true',
  '[[[[',
  '['.repeat(30_000),
  `{"a":`.repeat(10_000),
  '\u0000',
  '{}',
  '{"action":5}',
  '{"action":null}',
  '{"action":"nonsense"}',
  '{"action":"announce"}',
  '{"action":"dht_get"}',
  '{"action":"dht_get","id":{}}',
  '{"action":"dht_put","id":"1","k":[]}',
  '{"action":"dht_nonsense","id":"1"}',
  '{"action":"announce","info_hash":5,"peer_id":5}',
  '{"action":"scrape","info_hash":5}',
  '{"action":"scrape","info_hash":[5,null]}',
  JSON.stringify({
    action: 'announce',
    info_hash: ID,
    peer_id: ID,
    offers: [null, 5, {}, { offer: 'x', offer_id: 5 }],
  }),
  JSON.stringify({ action: 'announce', info_hash: ID, peer_id: ID, numwant: -1, left: 'x', offers: 'x' }),
  JSON.stringify({
    action: 'announce',
    info_hash: ID,
    peer_id: ID,
    answer: { sdp: 'x' },
    to_peer_id: 'x',
    offer_id: 'x',
  }),
]

trial('junk over the WebSocket harms nobody', async (lab) => {
  const server = await lab.server()
  for (const frame of FRAMES) {
    const what = `the frame ${frame.slice(0, 80)}`
    const socket = await Socket.open(server.socket)
    socket.send(frame)
    const info_hash = latin1(randomBytes(20))
    const announce = { action: 'announce', info_hash, peer_id: ID, numwant: 0, left: 1 }
    const answered = socket.reply(announce, (message) => message.info_hash === info_hash && message.interval > 0)
    await within(10, `reply or end after ${what}`, Promise.race([answered, socket.closed]))
    answered.catch(() => {}) // a closed socket does not answer
    await socket.close()
  }
  for (const bytes of [randomBytes(1000), Buffer.alloc(0), Buffer.from('null')]) {
    const socket = await Socket.open(server.socket)
    socket.send(bytes)
    await socket.close()
  }
  const flood = await Socket.open(server.socket)
  flood.send('x'.repeat(20_000_000))
  await within(20, 'end of a socket that sends 20 MB', flood.closed)
  await serves(server, 'junk over the WebSocket')
})

trial('an id of the wrong length is refused over the WebSocket and HTTP', async (lab) => {
  const server = await lab.server()
  const socket = await Socket.open(server.socket)
  for (const length of [0, 19, 21]) {
    const wrong = randomBytes(length)
    const announce = { action: 'announce', info_hash: latin1(wrong), peer_id: ID, numwant: 0 }
    const reply = await socket.reply(announce, (message) => 'failure reason' in message)
    assert.match(reply['failure reason'], /info_hash|info hash/, `${length} bytes over the WebSocket`)
    assert.equal(reply.action, 'announce')
    for (const [info_hash, peer_id] of [
      [wrong, randomBytes(20)],
      [randomBytes(20), wrong],
    ]) {
      const query = `info_hash=${percent(/** @type {Buffer} */ (info_hash))}&peer_id=${percent(/** @type {Buffer} */ (peer_id))}&port=1`
      const answer = await fetch(`http://${server.ready.web}/announce?${query}`)
      assert.match(await answer.text(), /^d14:failure reason\d+:[^\n]{10,120}e$/, `${length} bytes over HTTP`)
    }
  }
  await socket.close()
  await serves(server, 'ids of the wrong length')
})

trial('junk over HTTP harms nobody', async (lab) => {
  const server = await lab.server()
  const paths = [
    '/announce',
    '/announce?',
    '/announce?info_hash',
    `/announce?info_hash=%${'f'.repeat(5000)}`,
    '/scrape?info_hash=x',
    '/scrape',
    '/v1/records/',
    '/v1/records/x',
    `/v1/records/${'5a'.repeat(32)}?salt=%00`,
    '/v1/nonsense',
    '/..%2f..%2fetc/passwd',
    '/%2e%2e/%2e%2e/etc/passwd',
    '/%ff%fe',
    `/${'a'.repeat(5000)}`,
  ]
  for (const path of paths) {
    const answer = await fetch(`http://${server.ready.web}${path}`)
    assert.ok(answer.status < 500, `${path}: ${answer.status}`)
    assert.ok(!(await answer.text()).includes('root:'), path)
  }
  for (const bytes of ['junk\r\n\r\n', randomBytes(3000), `GET / HTTP/1.1\r\nx: ${'y'.repeat(1_000_000)}`]) {
    await endsAfter(server.web, bytes)
  }
  await serves(server, 'junk over HTTP')
})

trial('junk from nodes of the DHT harms nobody and gets its error code', async (lab) => {
  const server = await lab.server()
  const krpc = await Krpc.open(server.dht)
  lab.keep(krpc, { stop: async () => krpc.close() })
  const datagrams = [
    '',
    'd',
    'de',
    'le',
    'i5e',
    'x',
    'd1:ai5e1:q4:ping1:t2:aa1:y1:qe',
    'd1:q4:ping1:t2:aa1:y1:qe',
    'd1:t2:aa1:y1:re',
    'd1:eli201ee1:t2:aa1:y1:ee',
    'd1:ad2:id19:aaaaaaaaaaaaaaaaaaae1:q4:ping1:t2:aa1:y1:qe',
    'l'.repeat(1400),
    'd1:a'.repeat(300),
    'd1:ad2:id99999999999999999999:x',
    `d1:ad2:id20:${'a'.repeat(20)}e1:q4:ping1:t${1000}:${'t'.repeat(1000)}1:y1:qe`,
  ]
  for (const datagram of [...datagrams, ...Array.from({ length: 50 }, () => randomBytes(200))]) krpc.send(datagram)

  const id = randomBytes(20)
  const wrong = [
    { q: 'find_node', args: {}, code: 203 },
    { q: 'find_node', args: { target: randomBytes(19) }, code: 203 },
    { q: 'get_peers', args: { info_hash: randomBytes(19) }, code: 203 },
    { q: 'get_peers', args: { info_hash: 5 }, code: 203 },
    { q: 'get', args: { target: randomBytes(21) }, code: 203 },
    { q: 'announce_peer', args: { info_hash: id, port: 6881, token: 'no' }, code: 203 },
    { q: 'announce_peer', args: { info_hash: id, port: 70_000, token: 'no' }, code: 203 },
    { q: 'put', args: { v: 'x', token: 'no' }, code: 203 },
    { q: 'put', args: { v: 'x' }, code: 203 },
    { q: 'nonsense', args: {}, code: 204 },
  ]
  // Another node, so that the answers do not depend on how the server bears with one that sends too much.
  const other = await Krpc.open(server.dht)
  lab.keep(other, { stop: async () => other.close() })
  for (const { q, args, code } of wrong) {
    const { e } = await other.query(q, args)
    assert.equal(e?.[0], code, `${q} ${JSON.stringify(args)}: ${e}`)
    assert.match(String(e?.[1]), /\w{3,}/)
  }
  await serves(server, 'junk from nodes of the DHT')
})

trial('junk from TCP peers ends their connection and harms nobody', async (lab) => {
  const server = await lab.server()
  const handshake = Buffer.concat([Buffer.from('\x13BitTorrent protocol'), Buffer.alloc(8), randomBytes(40)])
  const junk = [
    'GET / HTTP/1.1\r\nhost: x\r\n\r\n'.repeat(4),
    Buffer.alloc(100_000),
    randomBytes(10_000),
    handshake,
    Buffer.concat([Buffer.from('\x13BitTorrent protocoX'), randomBytes(48)]),
    Buffer.concat([handshake, Buffer.from('ffffffff', 'hex')]),
  ]
  for (const bytes of junk) {
    await endsAfter(server.bittorrent, bytes)
  }
  await serves(server, 'junk from TCP peers')
})

/**
 * Sends these bytes over a connection of their own, which the server must end.
 * @param {{ host: string, port: number }} to
 * @param {string | Buffer} bytes
 */
async function endsAfter({ host, port }, bytes) {
  const peer = connect(port, host)
  peer.on('error', () => {}) // a reset is an answer too
  peer.resume()
  const closed = once(peer, 'close')
  await within(5, 'TCP connection', once(peer, 'connect'))
  peer.write(bytes)
  await within(40, `end of the connection after ${String(bytes).slice(0, 30)}`, closed)
}
