import { createHash } from 'node:crypto'

import { expect, test } from 'vitest'

import { toHex } from './bytes.ts'
import { sha1 } from './sha1.ts'

test('agrees with the platform on every length around the padding', () => {
  for (let length = 0; length <= 1100; length += length < 140 ? 1 : 57) {
    const message = Uint8Array.from({ length }, (_, i) => (i * 31 + length) & 0xff)
    expect(toHex(sha1(message)), `${length} bytes`).toBe(createHash('sha1').update(message).digest('hex'))
  }
})
