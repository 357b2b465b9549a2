/** Streams that nobody reads, a few of them. The full size is in test/long. */
import { describeSlowReaders } from '../support/slow-readers.ts';

// The speed is low, because other tests run beside this one.
describeSlowReaders({ streams: 16, speedBytes: 8 << 20, speedRatio: 0.4 });
