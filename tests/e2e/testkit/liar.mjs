// A DHT node that answers a get with whatever it was told to.

import bencode from 'bencode'
import { randomBytes } from 'node:crypto'
import { createSocket } from 'node:dgram'
import { nextAddress } from './dht.mjs'
import { once, within } from './wait.mjs'

/** @typedef {{ k: Buffer, v: Buffer, seq: number, sig: Buffer }} Item */

export class Liar {
  static async start() {
    const udp = createSocket('udp4')
    const host = nextAddress()
    udp.bind(0, host)
    await within(5, 'UDP socket', once(udp, 'listening'))
    return new Liar(udp, host)
  }

  #id = randomBytes(20)
  /** @type {Map<string, Item>} by target, hex */
  #lies = new Map()
  /** @type {Map<string, number>} how often each was told */
  #told = new Map()

  /** @param {import('node:dgram').Socket} udp @param {string} host */
  constructor(udp, host) {
    this.udp = udp
    this.address = `${host}:${udp.address().port}`
    udp.on('message', (data, from) => {
      const query = bencode.decode(data)
      if (Buffer.from(query.y ?? '').toString() !== 'q') return
      udp.send(this.#answer(query), from.port, from.address)
    })
  }

  /** From now on it says this of a target. @param {Buffer} target @param {Item} item */
  tell(target, item) {
    this.#lies.set(target.toString('hex'), item)
    this.#told.delete(target.toString('hex'))
  }

  /** How often it has said so. @param {Buffer} target */
  told(target) {
    return this.#told.get(target.toString('hex')) ?? 0
  }

  /** @param {any} query */
  #answer(query) {
    const reply = { id: this.#id, nodes: Buffer.alloc(0), token: Buffer.from('token') }
    const at = Buffer.from(query.a?.target ?? '').toString('hex')
    const lie = Buffer.from(query.q).toString() === 'get' ? this.#lies.get(at) : undefined
    if (!lie) return Buffer.from(bencode.encode({ t: query.t, y: 'r', r: reply }))
    this.#told.set(at, this.told(Buffer.from(at, 'hex')) + 1)
    const { k, seq, sig, v } = lie
    // Its bytes go out as they are, be they bencode or not.
    const placeholder = Buffer.from(`20:${randomBytes(10).toString('hex')}`)
    const text = Buffer.from(
      bencode.encode({ t: query.t, y: 'r', r: { ...reply, k, seq, sig, v: placeholder.subarray(3) } }),
    )
    const where = text.indexOf(placeholder)
    return Buffer.concat([text.subarray(0, where), v, text.subarray(where + placeholder.length)])
  }

  async stop() {
    this.udp.close()
  }
}
