/**
 * How much a program's heap may grow between two full garbage collections. Payload lies outside of V8's heap but counts
 * towards its limits: where the heap is small, each 10 MiB that pass by start a full collection, which took a third of
 * the time of a download. Only programs set this, never the library: it is one setting of the whole process.
 */
import { setFlagsFromString } from 'node:v8';

/** On top of what is alive after a collection. V8 itself goes up to 300 where it finds that this pays. */
const HEAP_GROWTH_PERCENT = 200;

export const growHeapSooner = (): void => setFlagsFromString(`--heap-growing-percent=${HEAP_GROWTH_PERCENT}`);
