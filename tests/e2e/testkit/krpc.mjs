// Bare KRPC (BEP 5) over UDP: queries as a test writes them, right or wrong.

import bencode from 'bencode'
import { randomBytes } from 'node:crypto'
import { createSocket } from 'node:dgram'
import { nextAddress } from './dht.mjs'
import { once, within } from './wait.mjs'

export class Krpc {
  /** @param {{ host: string, port: number }} node  whom to ask */
  static async open(node) {
    const udp = createSocket('udp4')
    udp.bind(0, nextAddress())
    await within(5, 'UDP socket', once(udp, 'listening'))
    udp.connect(node.port, node.host)
    await within(5, 'UDP socket', once(udp, 'connect'))
    return new Krpc(udp)
  }

  /** @param {import('node:dgram').Socket} udp */
  constructor(udp) {
    this.udp = udp
    this.id = randomBytes(20)
  }

  /** Sends a datagram as it is. @param {Uint8Array | string} datagram */
  send(datagram) {
    this.udp.send(datagram)
  }

  /**
   * Asks, and resolves with the answer: `r` of a response, `e` of an error.
   * @param {string} q
   * @param {object} [args]
   * @returns {Promise<{ r?: any, e?: [number, string] }>}
   */
  query(q, args = {}) {
    return this.#ask(q, args, (query) => query)
  }

  /**
   * As {@link query}, with an argument `v` whose bytes go out as they are, be they bencode or not.
   * @param {string} q
   * @param {object} args
   * @param {Buffer} v
   */
  queryRaw(q, args, v) {
    const placeholder = randomBytes(20)
    return this.#ask(q, { ...args, v: placeholder }, (query) => {
      const written = Buffer.concat([Buffer.from('20:'), placeholder])
      const at = query.indexOf(written)
      return Buffer.concat([query.subarray(0, at), v, query.subarray(at + written.length)])
    })
  }

  /** @param {string} q @param {object} args @param {(query: Buffer) => Buffer} change */
  #ask(q, args, change) {
    const t = randomBytes(4)
    const query = change(Buffer.from(bencode.encode({ t, y: 'q', q, a: { id: this.id, ...args } })))
    return this.exchange(query, t)
  }

  /**
   * Sends a datagram as it is, and resolves with the answer to this transaction.
   * @param {Buffer} datagram
   * @param {Buffer} t
   * @returns {Promise<{ r?: any, e?: [number, string] }>}
   */
  async exchange(datagram, t) {
    const { r, e } = decode(await this.raw(datagram, t))
    return { ...(r && { r }), ...(e && { e: [e[0], Buffer.from(e[1]).toString()] }) }
  }

  /** As {@link exchange}; the answer is as it came. @param {Buffer} datagram @param {Buffer} t @returns {Promise<Buffer>} */
  async raw(datagram, t) {
    const answer = once(this.udp, 'message', (data) => {
      const echoed = decode(data)?.t
      return echoed !== undefined && t.equals(echoed)
    })
    this.send(datagram)
    const [data] = await within(10, `answer to ${datagram.toString('latin1').slice(0, 100)}`, answer)
    return data
  }

  close() {
    this.udp.close()
  }
}

/** @param {Buffer} data */
function decode(data) {
  try {
    return bencode.decode(data)
  } catch {
    return undefined
  }
}
