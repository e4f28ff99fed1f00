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
  async #ask(q, args, change) {
    const t = randomBytes(4)
    const answer = once(this.udp, 'message', (data) => t.equals(decode(data)?.t))
    this.send(change(Buffer.from(bencode.encode({ t, y: 'q', q, a: { id: this.id, ...args } }))))
    const [data] = await within(10, `answer to ${q}`, answer)
    const { r, e } = decode(data)
    return { ...(r && { r }), ...(e && { e: [e[0], Buffer.from(e[1]).toString()] }) }
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
