/** Ed25519 by the platform where it has it (every engine since 2025), else by `@noble/ed25519`, loaded only then. */
import { concat, fromHex, toHex, type Bytes } from './bytes.ts'

/** Signs records. The key itself may be out of reach of this page: another implementation may ask a device. */
export interface SigningKey {
  /** Lower-case hex: the name of the author's site. */
  readonly publicKey: string
  /** The 64-byte Ed25519 signature of `message`. */
  sign(message: Bytes): Promise<Bytes>
}

/** A new 32-byte secret: whoever has it can publish as its owner, and without it nobody can. */
export const createSeed = (): Bytes => crypto.getRandomValues(new Uint8Array(32))

/** The signing key of a 32-byte seed; once imported, the page cannot read it back. */
export async function importSeed(seed: Uint8Array): Promise<SigningKey> {
  if (seed.length !== 32) throw new TypeError('a seed must be 32 bytes')
  if (!(await isNative())) {
    const noble = await import('@noble/ed25519')
    const secret = seed.slice()
    return {
      publicKey: toHex(await noble.getPublicKeyAsync(secret)),
      sign: async (message) => Uint8Array.from(await noble.signAsync(message, secret)),
    }
  }
  // Ed25519 private keys are refused in 'raw' form, so the seed travels in PKCS #8 (RFC 8410 §7). Only an extractable
  // key tells its public half, and only in JWK.
  const pkcs8 = concat(PKCS8, seed)
  const { x } = await crypto.subtle.exportKey(
    'jwk',
    await crypto.subtle.importKey('pkcs8', pkcs8, 'Ed25519', true, ['sign']),
  )
  const key = await crypto.subtle.importKey('pkcs8', pkcs8, 'Ed25519', false, ['sign'])
  const publicKey = atob((x ?? '').replaceAll('-', '+').replaceAll('_', '/'))
  return {
    publicKey: toHex(Uint8Array.from(publicKey, (c) => c.charCodeAt(0))),
    sign: async (message) => new Uint8Array(await crypto.subtle.sign('Ed25519', key, message)),
  }
}

/**
 * Whether `sig` is `publicKey`'s signature of `message`. Points of small order are refused, in the key and in the
 * signature, whatever the platform does: under such a key anyone can make "signatures", so it names nobody.
 */
export async function verify(publicKey: Bytes, message: Bytes, sig: Bytes): Promise<boolean> {
  if (publicKey.length !== 32 || sig.length !== 64) return false
  if (isSmallOrder(publicKey) || isSmallOrder(sig.subarray(0, 32))) return false
  if (!(await isNative())) {
    const noble = await import('@noble/ed25519')
    return noble.verifyAsync(sig, message, publicKey, { zip215: false })
  }
  try {
    const key = await crypto.subtle.importKey('raw', publicKey, 'Ed25519', false, ['verify'])
    return await crypto.subtle.verify('Ed25519', key, sig, message)
  } catch {
    return false // 32 bytes that are no point of the curve
  }
}

/** PKCS #8 up to the seed: version 0, algorithm 1.3.101.112, an octet string of 34 holding one of 32. */
const PKCS8 = fromHex('302e020100300506032b657004220420') as Bytes

let native: Promise<boolean> | undefined

function isNative(): Promise<boolean> {
  native ??= (async () => {
    try {
      await crypto.subtle.generateKey('Ed25519', false, ['sign', 'verify'])
      return true
    } catch {
      return false
    }
  })()
  return native
}

/** The y coordinates of the eight points of small order, and of their non-canonical spellings; the sign bit aside. */
const SMALL_ORDER = [
  '00'.repeat(32),
  `01${'00'.repeat(31)}`,
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05',
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a',
  `ec${'ff'.repeat(30)}7f`,
  `ed${'ff'.repeat(30)}7f`,
  `ee${'ff'.repeat(30)}7f`,
]

function isSmallOrder(point: Uint8Array): boolean {
  const y = point.slice()
  y[31] = (y[31] ?? 0) & 0x7f
  return SMALL_ORDER.includes(toHex(y))
}
