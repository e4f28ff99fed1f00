// Waiting: always for something that happens, always with a deadline that says what was missed.

import { setTimeout as pause } from 'node:timers/promises'

/**
 * @template T
 * @param {number} seconds
 * @param {string} what  completes the sentence "no … within 10 s"
 * @param {Promise<T>} promise
 * @returns {Promise<T>}
 */
export async function within(seconds, what, promise) {
  const timer = new AbortController()
  const deadline = pause(seconds * 1000, undefined, { signal: timer.signal }).then(() => {
    throw new Error(`no ${what} within ${seconds} s`)
  })
  try {
    return await Promise.race([promise, deadline])
  } finally {
    timer.abort()
    deadline.catch(() => {})
  }
}

/**
 * Asks until the answer is not undefined or null: for a state that nobody announces, such as what another program holds.
 * @template T
 * @param {number} seconds
 * @param {string} what
 * @param {() => T | Promise<T>} probe
 * @returns {Promise<NonNullable<T>>}
 */
export async function eventually(seconds, what, probe) {
  const end = Date.now() + seconds * 1000
  while (true) {
    const answer = await probe()
    if (answer !== undefined && answer !== null) return answer
    if (Date.now() > end) throw new Error(`no ${what} within ${seconds} s`)
    await pause(50)
  }
}

/**
 * Resolves with the arguments of the first event that `accept` takes.
 * @param {import('node:events').EventEmitter} emitter
 * @param {string} event
 * @param {(...args: any[]) => boolean} [accept]
 * @returns {Promise<any[]>}
 */
export function once(emitter, event, accept = () => true) {
  return new Promise((resolve) => {
    const listener = (/** @type {any[]} */ ...args) => {
      if (!accept(...args)) return
      emitter.off(event, listener)
      resolve(args)
    }
    emitter.on(event, listener)
  })
}
