// Nothing is kept app-wide: everything about a login lives and dies with its page,
// so that a hot start with another scene cannot meet leftovers.
App({})
