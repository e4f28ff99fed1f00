import { describe, expect, test } from 'vitest'

import { formatRoute, HOME, parseLink, parseRoute, sameSite } from './route.ts'

const KEY = '8543d3e6115f0f98c944077a4493dcd543e49c739fd998550a1f614ab36ed63e'
const IH = 'c9e15763f722f23e98a29decdfae341b98d53056'

test.each([
  [`#magnet:?xs=urn:btpk:${KEY}`, HOME],
  [`#magnet:?xt=urn:btih:${IH}`, HOME],
  [`#magnet%3A%3Fxs%3Durn%3Abtpk%3A${KEY}`, HOME],
  [`#magnet:?xs=urn:btpk:${KEY}&x.page=a%20b%2Fc%2Bd.md&x.at=h%C3%A9`, { page: 'a b/c+d.md', heading: 'hé' }],
  [`#magnet:?xs=urn:btpk:${KEY}&x.page=a+b.md&x.at=`, { page: 'a+b.md', heading: null }],
])('%s', (hash, place) => {
  const route = parseRoute(hash)
  expect(route?.place).toEqual(place)
  expect(parseRoute(formatRoute(route as NonNullable<typeof route>))).toEqual(route)
})

test.each(['', '#'])('%j is the start page', (hash) => expect(parseRoute(hash)).toBeNull())

test.each(['#hello', '#magnet:?', '#%', `#magnet:?xt=urn:btih:${IH.slice(2)}`, '#magnet:?xs=urn:btpk:zz'])(
  '%s is an error in one sentence',
  (hash) => {
    expect(() => parseRoute(hash)).toThrow(/^(not a magnet link|the magnet link) ?.+$/)
  },
)

test.each([
  `magnet:?xs=urn:btpk:${KEY}`,
  `  magnet:?xs=urn:btpk:${KEY}\n`,
  `web+magnet:?xs=urn:btpk:${KEY}`,
  `https://host.example/#magnet:?xs=urn:btpk:${KEY}`,
])('pasted: %s', (link) => expect(parseLink(link).magnet.key).toBe(KEY))

describe('sameSite', () => {
  const site = (link: string) => parseLink(link).magnet
  const one = site(`magnet:?xs=urn:btpk:${KEY}`)

  test.each([
    [`magnet:?xs=urn:btpk:${KEY}&dn=x&xt=urn:btih:${IH}`, true],
    [`magnet:?xs=urn:btpk:${KEY}&s=6e`, false],
    [`magnet:?xs=urn:btpk:${'77'.repeat(32)}`, false],
    [`magnet:?xt=urn:btih:${IH}`, false],
  ])('%s: %s', (link, same) => expect(sameSite(one, site(link))).toBe(same))

  test('without keys it is the torrent', () => {
    const torrent = site(`magnet:?xt=urn:btih:${IH}`)
    expect(sameSite(torrent, site(`magnet:?xt=urn:btih:${IH.toUpperCase()}&dn=x`))).toBe(true)
    expect(sameSite(torrent, site(`magnet:?xt=urn:btih:${'00'.repeat(20)}`))).toBe(false)
  })
})
