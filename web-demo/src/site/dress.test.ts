// @vitest-environment jsdom
import { describe, expect, test } from 'vitest'

import { sanitize } from './door.ts'
import { dress, findHeading } from './dress.ts'
import { renderMarkdown } from './markdown.ts'

const SITE = ['index.md', 'posts/hi.md', 'img/a.png', 'data.csv']

function page(source: string, path = 'index.md'): HTMLElement {
  const box = document.createElement('article')
  const body = sanitize(renderMarkdown(source).html)
  dress(body, {
    path,
    has: (file) => SITE.includes(file),
    href: (file, heading) => `#site/${file}${heading === null ? '' : `@${heading}`}`,
    open: (link) => (link.includes('btih') ? `#${link}` : null),
  })
  box.append(body)
  return box
}

const only = (box: Element, selector: string) => {
  const found = box.querySelectorAll<HTMLElement>(selector)
  expect(found).toHaveLength(1)
  return found[0] as HTMLElement
}

describe('links', () => {
  test.each([
    ['[x](posts/hi.md)', '#site/posts/hi.md'],
    ['[x](posts/hi.md#part)', '#site/posts/hi.md@part'],
    ['[x](#part)', '#site/index.md@part'],
    ['[x](magnet:?xt=urn:btih:1)', '#magnet:?xt=urn:btih:1'],
  ])('%s stays in the reader', (source, href) => {
    const link = only(page(source), 'a')
    expect(link.getAttribute('href')).toBe(href)
    expect(link.hasAttribute('target')).toBe(false)
  })

  test('external ones open elsewhere and are told nothing', () => {
    const link = only(page('[x](https://example.org/)'), 'a')
    expect(link.getAttribute('rel')).toBe('noopener noreferrer nofollow')
    expect(link.getAttribute('target')).toBe('_blank')
  })

  test.each([
    ['[x](../secret.md)', 'This link leaves the site'],
    ['[x](nowhere.md)', 'This page is not in the site'],
    ['[x](ftp://example.org/)', 'This kind of link is not followed'],
    ['[x](magnet:?nonsense)', 'This kind of link is not followed'],
  ])('%s is no link, and says why', (source, reason) => {
    const box = page(source)
    expect(box.querySelector('a')).toBeNull()
    expect(box.textContent).toBe(`x (${reason})\n`)
  })

  test('a file of the site is saved, not shown', () => {
    expect(only(page('[x](data.csv)'), 'a').dataset['file']).toBe('data.csv')
  })
})

describe('images', () => {
  test('of the site wait for their bytes', () => {
    const image = only(page('![alt](../img/a.png)', 'posts/hi.md'), 'img')
    expect(image.dataset).toMatchObject({ file: 'img/a.png', state: 'waiting' })
    expect(image.hasAttribute('src')).toBe(false)
    expect(image.getAttribute('alt')).toBe('alt')
  })

  test.each([
    ['![alt](https://far.example/a.png)', 'altImage on far.example, not loaded Open it there'],
    ['![](//far.example/a.png)', 'Image on far.example, not loaded Open it there'],
    ['![alt](img/gone.png)', 'altThis image is not in the site'],
    ['![alt](../img/a.png)', 'altThis image is not in the site'],
    ['![alt](data.csv)', 'altThis image is not in the site'],
  ])('%s: a placeholder', (source, says) => {
    const box = page(source)
    expect(box.querySelector('img')).toBeNull()
    expect(only(box, '.placeholder').textContent).toBe(says)
  })

  test('written into the page are shown, drawings are not', () => {
    const box = page('![](data:image/png;base64,iVBORw0KGgo=)\n\n![](data:image/svg+xml;base64,PHN2Zz4=)')
    expect(only(box, 'img').getAttribute('src')).toBe('data:image/png;base64,iVBORw0KGgo=')
  })
})

describe('headings', () => {
  test('have anchors, and stay called what they are called', () => {
    const box = page('# Über uns\n\n## Part\n\n## Part')
    expect([...box.querySelectorAll('h1, h2')].map(({ id, textContent }) => [id, textContent])).toEqual([
      ['at-über-uns', 'Über uns'],
      ['at-part', 'Part'],
      ['at-part-1', 'Part'],
    ])
    expect(box.querySelector('.anchor')?.getAttribute('href')).toBe('#site/index.md@über-uns')
  })

  test('are found by anchor, or by what they say', () => {
    const box = page('# Über uns\n\n## Part\n\n## Part')
    expect(findHeading(box, 'part-1')?.id).toBe('at-part-1')
    expect(findHeading(box, 'Über uns')?.id).toBe('at-über-uns')
    expect(findHeading(box, '"] *')).toBeNull()
  })
})

test('blocks run the way their text does', () => {
  expect(only(page('שלום'), 'p').dir).toBe('auto')
})

test('code and tables can be scrolled by keyboard, and are named', () => {
  const box = page('```rust\nfn\n```\n\n|a|\n|-|\n|b|')
  expect(only(box, 'pre').tabIndex).toBe(0)
  expect(only(box, 'pre').getAttribute('aria-label')).toBe('rust')
  expect(only(box, '.scroll').getAttribute('aria-label')).toBe('Table')
  expect(only(box, 'button').textContent).toBe('Copy')
})

test('the boxes of task lists say their state', () => {
  expect(only(page('- [x] a'), 'input').getAttribute('aria-label')).toBe('done')
})
