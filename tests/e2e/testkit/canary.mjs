// An ordinary client of every door: what must go on working whatever others send.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { connect } from 'node:net'
import { Krpc } from './krpc.mjs'
import { Socket } from './socket.mjs'
import { once, within } from './wait.mjs'

/**
 * Fails unless the server serves a page, a socket, an HTTP announce, a DHT node and a TCP peer.
 * @param {import('./swarmgate.mjs').Server} server
 * @param {string} after  what had been done to it
 */
export async function serves(server, after) {
  try {
    assert.equal((await fetch(`http://${server.ready.web}/livez`)).status, 200)

    const socket = await Socket.open(server.socket)
    assert.equal((await socket.ask({ action: 'dht_info' })).version, 1)
    const info_hash = latin1(randomBytes(20))
    const announce = { action: 'announce', info_hash, peer_id: latin1(randomBytes(20)), numwant: 0, left: 1 }
    const reply = await socket.reply(announce, (message) => message.info_hash === info_hash)
    assert.equal(reply.incomplete, 1)
    await socket.close()

    const query = `info_hash=${percent(randomBytes(20))}&peer_id=${percent(randomBytes(20))}&port=6001&left=0&compact=1`
    const body = await (await fetch(`http://${server.ready.web}/announce?${query}`)).text()
    assert.match(body, /^d8:completei1e/)

    const krpc = await Krpc.open(server.dht)
    assert.ok((await krpc.query('ping')).r.id)
    krpc.close()

    const peer = connect(server.bittorrent.port, server.bittorrent.host)
    await within(5, 'TCP connection', once(peer, 'connect'))
    peer.destroy()
  } catch (error) {
    throw new Error(`the server stopped serving after ${after}`, { cause: error })
  }
}

/** Twenty bytes as the tracker's JSON has them: one character a byte. @param {Buffer} bytes */
export function latin1(bytes) {
  return bytes.toString('latin1')
}

/** @param {Buffer} bytes */
export function percent(bytes) {
  return bytes.toString('hex').replace(/../g, '%$&')
}
