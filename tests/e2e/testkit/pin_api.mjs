// The pin API as anybody's program would use it: fetch, JSON, a bearer token.

import { eventually } from './wait.mjs'

/** @typedef {{ status: number, headers: Headers, body: any }} Reply */

export class PinApi {
  /**
   * The API of a server, for a new token; or, with `null`, for the operator.
   * @param {import('./swarmgate.mjs').Server} server
   * @param {object | null} [token]  what the token is made with
   */
  static async of(server, token = {}) {
    const operator = new PinApi(`http://${server.ready.admin}`)
    if (token === null) return operator
    const { body } = await operator.ask('POST', '/v1/tokens', token)
    return new PinApi(`http://${server.ready.web}`, body.token)
  }

  /** @param {string} base @param {string} [token] */
  constructor(base, token) {
    this.base = base
    this.token = token
  }

  /**
   * @param {string} method @param {string} path @param {object} [body] @param {Record<string, string>} [headers]
   * @returns {Promise<Reply>}
   */
  async ask(method, path, body, headers = {}) {
    const response = await fetch(this.base + path, {
      method,
      headers: {
        ...(this.token && { authorization: `Bearer ${this.token}` }),
        ...(body && { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(body && { body: JSON.stringify(body) }),
    })
    const text = await response.text()
    return { status: response.status, headers: response.headers, body: text ? JSON.parse(text) : undefined }
  }

  /** @param {object} body @returns {Promise<any>} */
  async pin(body) {
    const { status, body: pin } = await this.ask('POST', '/v1/pins', body)
    if (status !== 201 && status !== 200) throw new Error(`${status}: ${JSON.stringify(pin)}`)
    return pin
  }

  /** @param {string} id @returns {Promise<any>} */
  async get(id) {
    return (await this.ask('GET', `/v1/pins/${id}`)).body
  }

  /** All pins, page by page. @returns {Promise<any[]>} */
  async all() {
    const pins = []
    for (let cursor = ''; ;) {
      const { body } = await this.ask('GET', `/v1/pins?limit=100${cursor}`)
      pins.push(...body.pins)
      if (body.next === null) return pins
      cursor = `&cursor=${body.next}`
    }
  }

  /**
   * The pin once it is as wanted.
   * @param {string} id @param {number} seconds @param {string} what @param {(pin: any) => boolean} accept
   * @returns {Promise<any>}
   */
  async until(id, seconds, what, accept) {
    let last
    try {
      return await eventually(seconds, what, async () => {
        last = await this.get(id)
        return accept(last) ? last : undefined
      })
    } catch (error) {
      throw new Error(`${what}: ${JSON.stringify(last)}`, { cause: error })
    }
  }
}
