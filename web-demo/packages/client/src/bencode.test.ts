import { describe, expect, test } from 'vitest'

import { decode, encode, get, isCanonical, MAX_DEPTH, type Encodable, type Node } from './bencode.ts'
import { text, utf8 } from './bytes.ts'

const read = (document: string) => decode(utf8(document))

describe('decode', () => {
  test('the examples of BEP 3', () => {
    expect(read('4:spam')).toMatchObject({ kind: 'bytes', value: utf8('spam') })
    expect(read('i3e')).toMatchObject({ kind: 'int', value: 3n })
    expect(read('i-3e')).toMatchObject({ kind: 'int', value: -3n })
    expect(read('l4:spam4:eggse')).toMatchObject({
      kind: 'list',
      items: [{ value: utf8('spam') }, { value: utf8('eggs') }],
    })
    const dict = read('d3:cow3:moo4:spaml1:a1:bee')
    expect(get(dict, 'cow')).toMatchObject({ value: utf8('moo') })
    expect(text((get(dict, 'spam') as Node).raw)).toBe('l1:a1:be')
    expect(get(dict, 'pig')).toBeUndefined()
  })

  test.each([
    '',
    'i',
    'ie',
    'i-e',
    'i-0e',
    'i03e',
    'i00e',
    'i+3e',
    'i3',
    'i 3e',
    'i0x3e',
    '3:ab',
    '03:abc',
    '-1:a',
    ':',
    '1e0:a',
    '99999999999999999999:a',
    'l',
    'li1e',
    'd',
    'd1:ae',
    'di1ei2ee',
    'd1:a',
    'e',
    'x',
    'i1ei2e',
    '4:spamx',
    'd1:ai1e1:ai2ee',
    'd1:bi1e1:ai1e1:bi2ee',
  ])('%j is not bencode', (document) => {
    expect(() => read(document)).toThrow(/^invalid bencode at byte \d+: /)
  })

  test('keys out of order are read, but not canonical', () => {
    const node = read('d1:bi1e1:ai2ee')
    expect(get(node, 'a')).toMatchObject({ value: 2n })
    expect(isCanonical(node)).toBe(false)
    expect(isCanonical(read('ld1:bi1e1:ai2eee'))).toBe(false)
    expect(isCanonical(read('d1:ai1e1:bi2ee'))).toBe(true)
  })

  test('integers have no limit', () => {
    expect(read('i123456789012345678901234567890e')).toMatchObject({ value: 123456789012345678901234567890n })
  })

  test('depth is bounded', () => {
    const nested = (depth: number) => 'l'.repeat(depth) + 'e'.repeat(depth)
    expect(read(nested(MAX_DEPTH)).kind).toBe('list')
    expect(() => read(nested(MAX_DEPTH + 2))).toThrow('nested too deeply')
  })

  test('no prefix of a document is one', () => {
    const document = 'd1:ad1:xi-12ee1:bl3:abci0eee'
    expect(read(document).raw.length).toBe(document.length)
    for (let end = 0; end < document.length; end++) expect(() => read(document.slice(0, end))).toThrow()
  })
})

describe('encode', () => {
  test.each<[Encodable, string]>([
    [0, 'i0e'],
    [-7, 'i-7e'],
    [2n ** 70n, 'i1180591620717411303424e'],
    ['käse', '5:käse'],
    [utf8('ab'), '2:ab'],
    [[1, ['x'], {}], 'li1el1:xedee'],
    [{ b: 1, a: [], ä: 2 }, 'd1:ale1:bi1e2:äi2ee'],
  ])('%o', (value, document) => {
    expect(text(encode(value))).toBe(document)
    expect(isCanonical(decode(encode(value)))).toBe(true)
  })

  test.each([1.5, NaN, 2 ** 53])('%d is refused', (value) => {
    expect(() => encode(value)).toThrow(RangeError)
  })
})
