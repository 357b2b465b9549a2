/** Streams that nobody reads, very many of them beside others that keep their speed. */
import { describeSlowReaders } from '../support/slow-readers.ts';

describeSlowReaders({ streams: 64, speedBytes: 128 << 20, speedRatio: 0.8 });
