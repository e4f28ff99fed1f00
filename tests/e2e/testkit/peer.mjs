// A bare BitTorrent peer over TCP (BEP 3, BEP 10) that speaks the record exchange, and says what a test wants said.

import bencode from 'bencode'
import { createHash, randomBytes } from 'node:crypto'
import { connect } from 'node:net'
import { nextAddress } from './dht.mjs'
import { once, within } from './wait.mjs'

const PROTOCOL = Buffer.from('\u0013BitTorrent protocol', 'latin1')
const EXTENDED = 20
const OUR_ID = 7

/** @typedef {{ k: Buffer, seq: number, v: Buffer, sig: Buffer, salt?: Buffer | undefined }} Item */

export class Peer {
  /** The other side's id for the extension. */
  #theirs = 0
  #received = Buffer.alloc(0)
  /** @type {any[]} messages of the record exchange, decoded */
  heard = []

  /**
   * Greets in a swarm; rejects when it is turned away, or the other side does not offer the extension.
   * @param {{ host: string, port: number }} server
   * @param {Buffer} infoHash
   */
  static async greet({ host, port }, infoHash) {
    // From an address of its own: who lies is shut out, with all others there.
    const peer = new Peer(connect({ port, host, localAddress: nextAddress() }))
    const reserved = Buffer.from([0, 0, 0, 0, 0, 0x10, 0, 0])
    peer.socket.write(Buffer.concat([PROTOCOL, reserved, infoHash, randomBytes(20)]))
    await within(10, 'handshake', Promise.race([peer.#shaken(), peer.closed.then(() => turnedAway())]))
    peer.#extended(0, { m: { sg_record: OUR_ID } })
    await peer.#told(() => peer.#theirs > 0)
    return peer
  }

  /** @param {import('node:net').Socket} socket */
  constructor(socket) {
    this.socket = socket.setNoDelay(true)
    socket.on('error', () => {}) // a close follows
    /** @type {Promise<'closed'>} */
    this.closed = once(socket, 'close').then(() => 'closed')
    socket.on('data', (data) => {
      this.#received = Buffer.concat([this.#received, data])
    })
  }

  async #shaken() {
    while (this.#received.length < 68) await once(this.socket, 'data')
    this.#received = this.#received.subarray(68)
    this.socket.on('data', () => this.#read())
    this.#read()
  }

  #read() {
    while (this.#received.length >= 4) {
      const end = 4 + this.#received.readUInt32BE(0)
      if (this.#received.length < end) break
      const [kind, id] = this.#received.subarray(4, 6)
      const payload = this.#received.subarray(6, end)
      if (kind === EXTENDED && id === 0) this.#theirs = bencode.decode(payload).m?.sg_record ?? 0
      if (kind === EXTENDED && id === OUR_ID) this.heard.push(bencode.decode(payload))
      this.#received = this.#received.subarray(end)
      this.socket.emit('told')
    }
  }

  /** @param {() => boolean} happened */
  async #told(happened) {
    const told = async () => {
      while (!happened()) await once(this.socket, 'told')
    }
    await within(20, 'message of the peer', Promise.race([told(), this.closed.then(() => turnedAway())]))
  }

  /** @param {number} id @param {object} payload */
  #extended(id, payload) {
    const body = Buffer.from(bencode.encode(payload))
    const head = Buffer.alloc(6)
    head.writeUInt32BE(2 + body.length)
    head.writeUInt8(EXTENDED, 4)
    head.writeUInt8(id, 5)
    this.socket.write(Buffer.concat([head, body]))
  }

  /** Sends a version, right or wrong. @param {Item} item */
  bring(item) {
    this.#extended(this.#theirs, Peer.message(item))
  }

  /** The message that brings a version. @param {Item} item */
  static message({ k, seq, v, sig, salt }) {
    return { msg_type: 1, k, seq, sig, v, ...(salt && { salt }) }
  }

  /** Says what it has of a record; nothing, when only the key is given. @param {{ k: Buffer, seq?: number, v?: Buffer }} item */
  have({ k, seq, v }) {
    const version = v && { h: createHash('sha1').update(v).digest(), seq }
    this.#extended(this.#theirs, { msg_type: 0, r: [{ k, ...version }] })
  }

  /** The next version that it is sent. @returns {Promise<Item>} */
  async brought() {
    const before = this.heard.length
    await this.#told(() => this.heard.slice(before).some((message) => message.msg_type === 1))
    const { k, seq, v, sig } = this.heard.slice(before).find((message) => message.msg_type === 1)
    return { k: Buffer.from(k), seq, v: Buffer.from(v), sig: Buffer.from(sig) }
  }

  close() {
    this.socket.destroy()
  }
}

/** @returns {never} */
function turnedAway() {
  throw new Error('the peer was turned away')
}
