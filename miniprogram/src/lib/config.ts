// The two things to set before the Mini Program is uploaded.

export type EnvVersion = 'develop' | 'trial' | 'release'

/**
 * The service's public URL for each version of the Mini Program, without a slash at the end.
 * `trial` and `release` must be https and listed as a request domain in WeChat's console.
 */
export const SERVICE_URLS: Record<EnvVersion, string> = {
  develop: 'http://127.0.0.1:8080',
  trial: 'https://login-trial.example.com',
  release: 'https://login.example.com',
}

/**
 * Whether people may add a nickname and an avatar to a login. It starts closed and sends
 * nothing by itself. Set false to go without: then the privacy guide has nothing to declare.
 */
export const PROFILE = { offered: true }

interface AccountInfoSource {
  getAccountInfoSync(): { miniProgram: { envVersion: string } }
}

/** The service this version talks to; a version never heard of is taken for the released one. */
export function serviceUrl(wx: AccountInfoSource): string {
  const { envVersion } = wx.getAccountInfoSync().miniProgram
  return envVersion === 'develop' || envVersion === 'trial' ? SERVICE_URLS[envVersion] : SERVICE_URLS.release
}
