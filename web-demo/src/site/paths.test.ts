import { describe, expect, test } from 'vitest'

import { byPath, homePage, imageType, resolve, slug } from './paths.ts'

describe('byPath', () => {
  const paths = (...files: string[]) => [...byPath(files.map((path) => ({ path }))).keys()]

  test.each([
    [
      ['site/index.md', 'site/img/a.png'],
      ['index.md', 'img/a.png'],
    ],
    [
      ['site\\index.md', 'site\\img\\a.png'],
      ['index.md', 'img/a.png'],
    ],
    [['page.md'], ['page.md']],
    [[], []],
  ])('%j', (files, expected) => expect(paths(...files)).toEqual(expected))
})

test.each([
  [['b.md', 'README.md', 'index.md'], 'index.md'],
  [['b.md', 'README.md', 'sub/index.md'], 'README.md'],
  [['readme.markdown', 'b.md'], 'readme.markdown'],
  [['z.md', 'a/a.md', 'b.md'], 'b.md'],
  [['x/y/a.md', 'x/b.md'], 'x/b.md'],
  [['a.txt', 'img.png'], null],
  [[], null],
])('home page of %j: %s', (paths, home) => expect(homePage(paths)).toBe(home))

describe('resolve', () => {
  const SITE = [
    'index.md',
    'posts/hi.md',
    'posts/index.md',
    'posts/a b.md',
    'img/a.png',
    'data.csv',
    '100%.md',
    'docs/README.md',
  ]
  const page = (path: string, heading: string | null = null) => ({ kind: 'page', path, heading })
  const refused = (reason: string) => ({ kind: 'refused', reason })

  test.each<[href: string, from: string, destination: object]>([
    ['posts/hi.md', 'index.md', page('posts/hi.md')],
    ['./posts/hi.md#top', 'index.md', page('posts/hi.md', 'top')],
    ['hi.md', 'posts/index.md', page('posts/hi.md')],
    ['../index.md', 'posts/hi.md', page('index.md')],
    ['/index.md', 'posts/hi.md', page('index.md')],
    ['#part', 'posts/hi.md', page('posts/hi.md', 'part')],
    ['#r%C3%A9sum%C3%A9', 'index.md', page('index.md', 'résumé')],
    ['', 'index.md', page('index.md')],
    ['a%20b.md', 'posts/hi.md', page('posts/a b.md')],
    ['a b.md', 'posts/hi.md', page('posts/a b.md')],
    ['100%.md', 'index.md', page('100%.md')],
    ['posts/', 'index.md', page('posts/index.md')],
    ['posts', 'index.md', page('posts/index.md')],
    ['..', 'posts/hi.md', page('index.md')],
    ['docs', 'index.md', page('docs/README.md')],
    ['posts/hi', 'index.md', page('posts/hi.md')],
    ['posts/hi.md?x=1#y', 'index.md', page('posts/hi.md', 'y')],
    ['posts//./hi.md', 'index.md', page('posts/hi.md')],
    ['data.csv', 'index.md', { kind: 'file', path: 'data.csv' }],
    ['../img/a.png', 'posts/hi.md', { kind: 'file', path: 'img/a.png' }],
    ['https://example.org/a', 'index.md', { kind: 'external', url: 'https://example.org/a' }],
    ['HTTP://example.org', 'index.md', { kind: 'external', url: 'HTTP://example.org' }],
    ['//example.org/a', 'index.md', { kind: 'external', url: 'https://example.org/a' }],
    ['mailto:a@example.org', 'index.md', { kind: 'external', url: 'mailto:a@example.org' }],
    ['magnet:?xt=x', 'index.md', { kind: 'magnet', link: 'magnet:?xt=x' }],
    ['../index.md', 'index.md', refused('outside')],
    ['../../etc/passwd', 'posts/hi.md', refused('outside')],
    ['/../index.md', 'posts/hi.md', refused('outside')],
    ['posts/../../index.md', 'index.md', refused('outside')],
    ['%2e%2e/index.md', 'index.md', refused('outside')],
    ['..%2findex.md', 'posts/hi.md', refused('outside')],
    ['..\\index.md', 'posts/hi.md', refused('outside')],
    ['img/a.png%00', 'index.md', refused('outside')],
    ['nowhere.md', 'index.md', refused('missing')],
    ['javascript:alert(1)', 'index.md', refused('scheme')],
    ['JavaScript:alert(1)', 'index.md', refused('scheme')],
    ['data:text/html,x', 'index.md', refused('scheme')],
    ['file:///etc/passwd', 'index.md', refused('scheme')],
    ['blob:https://x/y', 'index.md', refused('scheme')],
  ])('%s on %s', (href, from, destination) => {
    expect(resolve(href, from, (path) => SITE.includes(path))).toEqual(destination)
  })
})

test.each([
  ['Hello, World!', 'hello-world'],
  ['  What is `here`?  ', 'what-is-here'],
  ['Über den Wolken', 'über-den-wolken'],
  ['a_b-c d', 'a_b-c-d'],
  ['日本語', '日本語'],
  ['!!!', ''],
])('the anchor of %j is %j', (heading, anchor) => expect(slug(heading)).toBe(anchor))

test.each([
  ['a.PNG', 'image/png'],
  ['x/y.jpeg', 'image/jpeg'],
  ['a.svg', 'image/svg+xml'],
  ['a.html', null],
  ['png', null],
  ['', null],
])('the type of %s is %s', (path, type) => expect(imageType(path)).toBe(type))
