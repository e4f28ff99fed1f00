// Those who follow a record at a server, in each of the ways there are, and every version that they were told of.

import { latin1 } from './canary.mjs'
import { target } from './record.mjs'
import { Socket } from './socket.mjs'
import { eventually, within } from './wait.mjs'
import { randomBytes } from 'node:crypto'

/** @typedef {import('./lab.mjs').Lab} Lab */
/** @typedef {{ seq: number, v: string, sig: string }} Version */

export class Followers {
  /** @type {Record<'subscription' | 'announce' | 'events', Version[]>} */
  told = { subscription: [], announce: [], events: [] }

  /**
   * Follows the record of a key, and has been told of the version that is there.
   * @param {Lab} lab @param {import('./swarmgate.mjs').Server} server @param {Buffer} key
   */
  static async of(lab, server, key) {
    const followers = new Followers()
    const k = key.toString('hex')

    const subscriber = await Socket.open(server.socket)
    lab.keep(subscriber, { stop: () => subscriber.close() })
    followers.#listen(subscriber, 'subscription', (message) => message.v && message)
    await subscriber.ask({ action: 'dht_subscribe', k })

    const announcer = await Socket.open(server.socket)
    lab.keep(announcer, { stop: () => announcer.close() })
    followers.#listen(announcer, 'announce', (message) => message.bep46?.v && message.bep46)
    const announce = {
      action: 'announce',
      info_hash: latin1(target(key)),
      peer_id: latin1(randomBytes(20)),
      numwant: 0,
    }
    announcer.send(JSON.stringify({ ...announce, left: 1, bep46: { k } }))

    const stopped = new AbortController()
    const stream = await fetch(`http://${server.ready.web}/v1/records/${k}/events`, { signal: stopped.signal })
    const read = followers.#read(stream)
    lab.keep(stream, { stop: async () => (stopped.abort(), await read) })
    return followers
  }

  /** @param {Socket} socket @param {'subscription' | 'announce'} way @param {(message: any) => any} record */
  #listen(socket, way, record) {
    socket.ws.on('message', (data) => {
      const found = record(JSON.parse(String(data)))
      if (found) this.told[way].push(version(found))
    })
  }

  /** @param {Response} stream */
  async #read(stream) {
    let text = ''
    try {
      for await (const chunk of stream.body ?? []) {
        text += Buffer.from(chunk).toString()
        const events = text.split('\n\n')
        text = events.pop() ?? ''
        for (const event of events) {
          const data = /^data: ?(.*)$/m.exec(event)?.[1]
          if (data) this.told.events.push(version(JSON.parse(data)))
        }
      }
    } catch {
      // Stopped.
    }
  }

  /** Waits until each of them has been told of this number. @param {number} seq */
  async heard(seq) {
    const all = () => Object.values(this.told).every((versions) => versions.at(-1)?.seq === seq) || null
    await within(35, `version ${seq}`, eventually(30, `version ${seq} at every follower`, all))
  }
}

/** @param {any} record @returns {Version} */
const version = ({ seq, v, sig }) => ({ seq, v, sig })
