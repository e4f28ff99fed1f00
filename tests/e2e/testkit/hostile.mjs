// A native peer made by hand, which can do wrong.

import { randomBytes } from 'node:crypto'
import { connect } from 'node:net'
import bencode from 'bencode'
import { once, within } from './wait.mjs'

export const ID = { choke: 0, unchoke: 1, interested: 2, have: 4, bitfield: 5, request: 6, piece: 7, extended: 20 }

/** The id under which it wants `ut_metadata` messages. */
const UT_METADATA = 2

/** The id under which the server wants them. */
const THEIR_UT_METADATA = Buffer.from([3])

/** @typedef {{ id: number, payload: Buffer }} Message */

export class Peer {
  /** @param {{ host: string, port: number }} address @param {string} from  its own address */
  static async connect({ host, port }, from) {
    const socket = connect({ host, port, localAddress: from })
    socket.on('error', () => {}) // told by `closed`
    await within(10, 'TCP connection', once(socket, 'connect'))
    return new Peer(socket)
  }

  /**
   * Connects and sends its handshake.
   * @param {{ host: string, port: number }} address @param {string} from @param {string} infoHash
   */
  static async greet(address, from, infoHash) {
    const peer = await Peer.connect(address, from)
    peer.write(peer.handshake(infoHash))
    return peer
  }

  /** @param {import('node:net').Socket} socket */
  constructor(socket) {
    this.socket = socket
    this.closed = new Promise((resolve) => socket.once('close', () => resolve(undefined)))
    this.buffer = Buffer.alloc(0)
    this.greeted = false
    /** @type {(message: Message) => void} */
    this.hear = () => {}
    socket.on('data', (data) => this.#take(data))
  }

  /** @param {string} infoHash */
  handshake(infoHash) {
    const reserved = Buffer.from('0000000000100000', 'hex')
    return Buffer.concat([
      Buffer.from('\x13BitTorrent protocol', 'latin1'),
      reserved,
      Buffer.from(infoHash, 'hex'),
      randomBytes(20),
    ])
  }

  /** @param {Buffer} bytes */
  write(bytes) {
    if (!this.socket.destroyed) this.socket.write(bytes)
  }

  /** @param {number} id @param {Buffer} [payload] */
  say(id, payload = Buffer.alloc(0)) {
    const head = Buffer.alloc(5)
    head.writeUInt32BE(payload.length + 1, 0)
    head[4] = id
    this.write(Buffer.concat([head, payload]))
  }

  /** @param {number} metadataSize */
  claimMetadata(metadataSize) {
    const hello = bencode.encode({ m: { ut_metadata: UT_METADATA }, metadata_size: metadataSize })
    this.say(ID.extended, Buffer.concat([Buffer.from([0]), hello]))
  }

  /**
   * Gives the metadata to whoever asks, says that it has some pieces, and hands each request to `asked`.
   * @param {Buffer} metadata
   * @param {Buffer} bitfield
   * @param {(piece: number, begin: number, length: number) => void} asked
   */
  offer(metadata, bitfield, asked) {
    this.hear = ({ id, payload }) => {
      if (id === ID.interested) this.say(ID.unchoke)
      if (id === ID.request) asked(payload.readUInt32BE(0), payload.readUInt32BE(4), payload.readUInt32BE(8))
      if (id !== ID.extended || payload[0] !== UT_METADATA) return
      const { piece } = bencode.decode(payload.subarray(1))
      const head = bencode.encode({ msg_type: 1, piece, total_size: metadata.length })
      this.say(ID.extended, Buffer.concat([THEIR_UT_METADATA, head, metadata.subarray(piece << 14, (piece + 1) << 14)]))
    }
    this.claimMetadata(metadata.length)
    this.say(ID.bitfield, bitfield)
  }

  /** @param {number} piece @param {number} begin @param {Uint8Array} bytes */
  give(piece, begin, bytes) {
    this.say(ID.piece, Buffer.concat([Peer.numbers(piece, begin), bytes]))
  }

  /** @param {number[]} numbers */
  static numbers(...numbers) {
    const bytes = Buffer.alloc(numbers.length * 4)
    numbers.forEach((number, at) => bytes.writeUInt32BE(number, at * 4))
    return bytes
  }

  leave() {
    this.socket.destroy()
  }

  /** @param {Buffer} data */
  #take(data) {
    this.buffer = Buffer.concat([this.buffer, data])
    if (!this.greeted) {
      if (this.buffer.length < 68) return
      this.buffer = this.buffer.subarray(68)
      this.greeted = true
    }
    while (this.buffer.length >= 4) {
      const length = this.buffer.readUInt32BE(0)
      if (this.buffer.length < 4 + length) return
      const message = this.buffer.subarray(4, 4 + length)
      this.buffer = this.buffer.subarray(4 + length)
      if (length > 0) this.hear({ id: message[0] ?? 0, payload: message.subarray(1) })
    }
  }
}
