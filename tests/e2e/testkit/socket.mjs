// A bare WebSocket client that speaks the tracker's JSON.

import { WebSocket } from 'ws'
import { once, within } from './wait.mjs'

export class Socket {
  /** @param {string} url @param {Record<string, string>} [headers] */
  static async open(url, headers = {}) {
    const socket = new Socket(new WebSocket(url, { headers }))
    await within(10, 'open WebSocket', Promise.race([once(socket.ws, 'open'), socket.failed]))
    return socket
  }

  /** @param {WebSocket} ws */
  constructor(ws) {
    this.ws = ws
    this.calls = 0
    this.closed = once(ws, 'close')
    this.failed = once(ws, 'error').then(([error]) => {
      throw error
    })
    this.failed.catch(() => {}) // told by whoever waits
  }

  /** Sends a frame as it is. @param {string | Buffer} frame */
  send(frame) {
    this.ws.send(frame)
  }

  /**
   * Sends a request with an id and resolves with its reply.
   * @param {object} request
   * @returns {Promise<any>}
   */
  ask(request) {
    const id = `${++this.calls}`
    return this.reply({ ...request, id }, (message) => message.id === id)
  }

  /**
   * Sends a message and resolves with the first one that `accept` takes.
   * @param {object} message
   * @param {(message: any) => boolean} accept
   * @returns {Promise<any>}
   */
  async reply(message, accept) {
    const answer = once(this.ws, 'message', (data) => accept(JSON.parse(String(data))))
    this.send(JSON.stringify(message))
    const [data] = await within(30, `reply to ${JSON.stringify(message)}`, answer)
    return JSON.parse(String(data))
  }

  async close() {
    this.ws.close()
    await within(10, 'closed WebSocket', this.closed)
  }
}
