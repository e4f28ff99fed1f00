import { afterEach, describe, expect, test, vi } from 'vitest'

import { toHex, utf8 } from './bytes.ts'
import { hex } from './testing.ts'

/** RFC 8032 §7.1, tests 1 and 3. */
const RFC_8032 = [
  {
    seed: '9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60',
    publicKey: 'd75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a',
    message: '',
    sig: 'e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b',
  },
  {
    seed: 'c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7',
    publicKey: 'fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025',
    message: 'af82',
    sig: '6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a',
  },
]

describe.each(['platform', 'noble'])('by %s', (kind) => {
  const load = async () => {
    vi.resetModules()
    if (kind === 'noble') vi.spyOn(crypto.subtle, 'generateKey').mockRejectedValue(new Error('NotSupportedError'))
    const native = vi.spyOn(crypto.subtle, 'importKey')
    const { importSeed, verify } = await import('./ed25519.ts')
    return { importSeed, verify, usedPlatform: () => native.mock.calls.length > 0 }
  }
  afterEach(() => vi.restoreAllMocks())

  test.each(RFC_8032)('RFC 8032: message "$message"', async ({ seed, publicKey, message, sig }) => {
    const { importSeed, verify, usedPlatform } = await load()
    const key = await importSeed(hex(seed))
    expect(key.publicKey).toBe(publicKey)
    expect(toHex(await key.sign(hex(message)))).toBe(sig)
    expect(await verify(hex(publicKey), hex(message), hex(sig))).toBe(true)
    expect(usedPlatform()).toBe(kind === 'platform')
  })

  test('a change anywhere is noticed', async () => {
    const { importSeed, verify } = await load()
    const key = await importSeed(new Uint8Array(32).fill(7))
    const message = utf8('3:seqi1e1:v2:hi')
    const sig = await key.sign(message)
    for (const byte of [0, 31, 32, 63]) {
      const forged = sig.slice()
      forged[byte] = (forged[byte] ?? 0) ^ 1
      expect(await verify(hex(key.publicKey), message, forged), `byte ${byte}`).toBe(false)
    }
    expect(await verify(hex(key.publicKey), utf8('3:seqi2e1:v2:hi'), sig)).toBe(false)
    expect(await verify(hex(key.publicKey).subarray(1), message, sig)).toBe(false)
  })

  test('keys that anyone can sign for are refused', async () => {
    const { verify } = await load()
    const identity = hex(`01${'00'.repeat(31)}`)
    expect(await verify(identity, utf8('x'), hex(`01${'00'.repeat(63)}`))).toBe(false)
  })
})

test('a seed has 32 bytes', async () => {
  const { importSeed, createSeed } = await import('./ed25519.ts')
  await expect(importSeed(new Uint8Array(31))).rejects.toThrow('a seed must be 32 bytes')
  expect(createSeed()).toHaveLength(32)
  expect(createSeed()).not.toEqual(createSeed())
})
