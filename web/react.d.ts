// <scan-login> in the JSX of React 19. It needs React's own types, which whoever writes such pages has.

import type { DetailedHTMLProps, HTMLAttributes } from 'react';
import type { ScanLogin, ScanLoginAttributes, ScanLoginEvents } from './scan-login.js';

export * from './scan-login.js';

/** React listens to whatever an attribute names behind `on`. */
export type ScanLoginHandlers = {
  [Name in keyof ScanLoginEvents as `on${Name}`]?: (event: CustomEvent<ScanLoginEvents[Name]>) => void;
};

declare module 'react' {
  namespace JSX {
    interface IntrinsicElements {
      'scan-login': DetailedHTMLProps<HTMLAttributes<ScanLogin>, ScanLogin> & ScanLoginAttributes & ScanLoginHandlers;
    }
  }
}
