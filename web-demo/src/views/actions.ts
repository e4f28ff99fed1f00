/** What a person can do, as the views call it. */
export interface Actions {
  readonly open: (route: import('../route.ts').Route) => void
  readonly retry: () => void
  readonly check: () => void
  readonly acceptUpdate: () => void
  readonly dismissUpdate: () => void
  readonly copyLink: () => void
  readonly image: (path: string) => Promise<Blob>
  readonly save: (path: string) => void
}
