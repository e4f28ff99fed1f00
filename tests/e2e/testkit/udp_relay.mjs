// A way to a peer by UDP alone: nothing listens at its TCP port.

import { createSocket } from 'node:dgram'
import { once } from 'node:events'

export class UdpRelay {
  /** A port of this host behind which the peer is. @param {{ host: string, port: number }} peer */
  static async to(peer) {
    const front = createSocket('udp4')
    front.bind(0, '127.0.0.1')
    await once(front, 'listening')
    return new UdpRelay(front, peer)
  }

  /** @param {import('node:dgram').Socket} front @param {{ host: string, port: number }} peer */
  constructor(front, peer) {
    this.front = front
    this.port = front.address().port
    /** Datagrams passed on, both ways. */
    this.passed = 0
    /** For each who sends, a socket of its own: the peer tells them apart. @type {Map<number, import('node:dgram').Socket>} */
    this.backs = new Map()
    front.on('message', (datagram, from) => {
      let back = this.backs.get(from.port)
      if (!back) {
        back = createSocket('udp4')
        back.on('message', (answer) => this.#pass(front, answer, from.port, from.address))
        this.backs.set(from.port, back)
      }
      this.#pass(back, datagram, peer.port, peer.host)
    })
  }

  /** @param {import('node:dgram').Socket} socket @param {Buffer} datagram @param {number} port @param {string} host */
  #pass(socket, datagram, port, host) {
    this.passed++
    socket.send(datagram, port, host)
  }

  async stop() {
    for (const socket of [this.front, ...this.backs.values()]) socket.close()
  }
}
