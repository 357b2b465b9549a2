/** The browser of this machine, without a window. Files that use it say `needs: chromium`. */
import assert from 'node:assert/strict';
import { chromium, type Browser } from 'playwright-core';
import { findChromium } from './system-packages.ts';

/** `args`: beside those that let it run as root. Whoever launches it closes it. */
export const launchBrowser = async (...args: readonly string[]): Promise<Browser> => {
  const executablePath = findChromium();
  assert.ok(executablePath, 'no Chromium');
  return chromium.launch({ executablePath, args: ['--no-sandbox', ...args] });
};
