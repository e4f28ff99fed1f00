// permessage-deflate between the tracker and whoever can do it: the `ws` package, where the bytes can be counted, and
// Chromium, which offers it by itself.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { WebSocket as Client } from 'ws'
import { latin1 } from './testkit/canary.mjs'
import { trial } from './testkit/lab.mjs'
import { Socket } from './testkit/socket.mjs'
import { once, within } from './testkit/wait.mjs'

/** As long as a browser's, with the repetitions that there are in one. @param {string} type */
function description(type) {
  const candidate = () =>
    `a=candidate:${randomBytes(4).readUInt32BE()} 1 udp 2113937151 ${randomBytes(16).toString('hex')}.local 46243 typ host\r\n`
  return { type, sdp: `v=0\r\no=- 46117 2 IN IP4 127.0.0.1\r\n${Array.from({ length: 14 }, candidate).join('')}` }
}

/** @param {string} info_hash @param {number} [offers] */
function announce(info_hash, offers = 0) {
  const offer = () => ({ offer: description('offer'), offer_id: latin1(randomBytes(20)) })
  const peer_id = latin1(randomBytes(20))
  return {
    action: 'announce',
    info_hash,
    peer_id,
    numwant: offers,
    left: 1,
    offers: Array.from({ length: offers }, offer),
  }
}

trial('offers and answers are compressed for clients that can do it, and arrive as they were', async (lab) => {
  const server = await lab.server()
  for (const perMessageDeflate of [
    true,
    { threshold: 0, serverNoContextTakeover: true },
    { clientMaxWindowBits: 10 },
    // A smaller window of the server's is declined, and no compression is no reason to be refused.
    { serverMaxWindowBits: 10 },
    false,
  ]) {
    const [said, info_hash] = [JSON.stringify(perMessageDeflate), latin1(randomBytes(20))]
    const [a, b] = [new Client(server.socket, { perMessageDeflate }), new Client(server.socket, { perMessageDeflate })]
    const [one, other] = [new Socket(a), new Socket(b)]
    await within(20, 'open sockets', Promise.all([once(a, 'open'), once(b, 'open')]))
    const agreed = !said.includes('false') && !said.includes('serverMaxWindowBits')
    assert.equal(a.extensions, agreed ? 'permessage-deflate' : '', said)

    const [bytes, wire] = [{ offer: 0 }, /** @type {any} */ (b)._socket]
    const hello = announce(info_hash)
    await other.reply(hello, (message) => message.interval)
    const before = wire.bytesRead
    const heard = once(b, 'message', (data) => {
      bytes.offer = data.length
      return JSON.parse(String(data)).offer
    })
    const offering = announce(info_hash, 1)
    await one.reply(offering, (message) => message.interval)
    const [data] = await within(20, `offer, ${said}`, heard)
    const offer = JSON.parse(String(data))
    assert.deepEqual(offer.offer, offering.offers[0]?.offer)
    const read = wire.bytesRead - before
    assert.ok(agreed ? read < 0.8 * bytes.offer : read > bytes.offer, `${read} bytes for ${bytes.offer}, ${said}`)

    const answer = description('answer')
    const answered = once(a, 'message', (message) => JSON.parse(String(message)).answer)
    const { offer_id, peer_id: to_peer_id } = offer
    const { peer_id } = hello
    other.send(JSON.stringify({ action: 'announce', info_hash, peer_id, to_peer_id, offer_id, answer }))
    const [relayed] = await within(20, `answer, ${said}`, answered)
    assert.deepEqual(JSON.parse(String(relayed)).answer, answer)
    await Promise.all([one.close(), other.close()])
  }
})

trial('Chromium compresses, and reads what is compressed', async (lab) => {
  const [server, plain] = [await lab.server(), await lab.server({ env: { SWARMGATE__TRACKER__COMPRESSION: 'false' } })]
  const page = await (await lab.browser()).open(server.page)
  const info_hash = latin1(randomBytes(20))
  const [first, second] = [announce(info_hash), announce(info_hash, 5)]
  const run = [JSON.stringify(first), JSON.stringify(second)]
  for (const { socket, extensions } of [
    { socket: server.socket, extensions: /^permessage-deflate/ },
    { socket: plain.socket, extensions: /^$/ },
  ]) {
    const met = await within(30, 'offer in Chromium', page.evaluate(meet, [socket, ...run]))
    assert.match(met.extensions, extensions)
    assert.ok(second.offers.some(({ offer }) => offer.sdp === met.offer.sdp))
  }
})

/** Runs in a page: two sockets, a peer on one, then one on the other that makes offers. @param {string[]} what */
async function meet([url = '', first = '', second = '']) {
  const open = async () => {
    const socket = new WebSocket(url)
    await new Promise((resolve) => (socket.onopen = resolve))
    return socket
  }
  /** @param {WebSocket} socket @returns {Promise<any>} */
  const next = (socket) => new Promise((resolve) => (socket.onmessage = ({ data }) => resolve(JSON.parse(data))))
  const [a, b] = [await open(), await open()]
  a.send(first)
  await next(a)
  const offered = next(a)
  b.send(second)
  return { extensions: a.extensions, offer: (await offered).offer }
}
