/**
 * Which chunks are worth a dictionary: those that many images share, then those that versions of one image go on sharing. What to choose
 * is learned from older versions ("train") and judged by newer ones ("test"). Sizes are stored bytes.
 * Source: spec/nydus-image.md, section 18, step 4
 */
import type { ChunkRow } from "./database.ts";

const trainShare = 0.7;
const clusterRoundsMax = 7;
const neighboursMin = 10;
const imagesShareMin = 0.9;
const clusteredShareMin = 0.2;
const radii = { from: 0.5, to: 0.9 };
const thresholds = { from: 0.5, to: 0.8 };
const step = 0.05;

export interface Selection {
  rows: ChunkRow[];
  trainBytes: number;
  testBytes: number;
  /** of the test set, without what is in the dictionary */
  remainingBytes: number;
  dictionaryBytes: number;
  /** images that share too little with others */
  alone: string[];
}

export function selectChunks(rows: readonly ChunkRow[]): Selection {
  const { train, test } = divide(rows);
  const clusters = findClusters(train, test);
  const shared = new Set(clusters.flatMap(({ dictionary }) => dictionary.map(({ digest }) => digest)));
  const left = without(test, shared);
  const versions = selectAcrossVersions(train, left, clusters);
  const chosen = new Set([...clusters.flatMap(({ dictionary }) => dictionary), ...[...versions.values()].flat()]);
  const remaining = left.filter(({ image, digest }) => !versions.get(image)?.some((row) => row.digest === digest));
  const clustered = new Set(clusters.flatMap(({ images }) => images));
  return {
    rows: wholeBlobs(rows, [...chosen]),
    trainBytes: bytesOf(train),
    testBytes: bytesOf(test),
    remainingBytes: bytesOf(remaining),
    dictionaryBytes: bytesOf([...chosen]),
    alone: [...new Set(rows.map(({ image }) => image))].filter((image) => !clustered.has(image)).sort(),
  };
}

/** The first 0.7 of an image's versions, in the order of the numbers in them, are for learning. */
export function divide(rows: readonly ChunkRow[]): { train: ChunkRow[]; test: ChunkRow[] } {
  const train: ChunkRow[] = [];
  const test: ChunkRow[] = [];
  for (const [, ofImage] of [...group(rows, ({ image }) => image)].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const versions = [...group(ofImage, ({ version }) => numbersOf(version).join(".")).values()];
    versions.sort((a, b) => compareNumbers(numbersOf(a[0].version), numbersOf(b[0].version)));
    const count = Math.floor(trainShare * versions.length);
    for (const [i, version] of versions.entries()) (i < count ? train : test).push(...version);
  }
  return { train, test };
}

interface Cluster {
  images: string[];
  dictionary: ChunkRow[];
}

/** Clusters of images that share much, round after round on what is left, until few images find others. */
function findClusters(trainRows: readonly ChunkRow[], testRows: readonly ChunkRow[]): Cluster[] {
  let train = [...trainRows];
  let test = [...testRows];
  const found: Cluster[] = [];
  for (let round = 0; round < clusterRoundsMax; round++) {
    const points = [...group(train, ({ image }) => image)];
    if (points.length === 0) break;
    const best = bestClusters(points, test);
    const clustered = best.reduce((sum, { images }) => sum + images.length, 0);
    if (clustered / points.length < clusteredShareMin) break;
    found.push(...best);
    const digests = new Set(best.flatMap(({ dictionary }) => dictionary.map(({ digest }) => digest)));
    train = without(train, digests);
    test = without(test, digests);
  }
  return found;
}

type Point = readonly [image: string, rows: readonly ChunkRow[]];

/** The clusters of the radius that leaves the least of the test set; of equal ones the largest. A point seen at a smaller radius is not seen again. */
function bestClusters(points: readonly Point[], test: readonly ChunkRow[]): Cluster[] {
  const distances = points.map((a) => points.map((b) => (a === b ? 0 : distance(a[1], b[1]))));
  const visited = new Set<number>();
  const clustered = new Set<number>();
  let best: Cluster[] = [];
  let bestScore = Number.POSITIVE_INFINITY;
  for (let radius = radii.from; radius <= radii.to; radius += step) {
    const clusters = cluster(distances, radius, visited, clustered).map((members) => ({
      images: members.map((i) => points[i][0]),
      dictionary: sharedChunks(members.map((i) => points[i][1])),
    }));
    const score = bytesOf(without(test, new Set(clusters.flatMap(({ dictionary }) => dictionary.map(({ digest }) => digest)))));
    if (score > bestScore) continue;
    best = clusters;
    bestScore = score;
  }
  return best;
}

/** 1 − the share of bytes that are there twice. */
export function distance(a: readonly ChunkRow[], b: readonly ChunkRow[]): number {
  const seen = new Set<string>();
  let total = 0;
  let repeated = 0;
  for (const { digest, compressedSize } of [...a, ...b]) {
    total += compressedSize;
    if (seen.has(digest)) repeated += compressedSize;
    seen.add(digest);
  }
  return total === 0 ? 1 : 1 - repeated / total;
}

/** DBSCAN. Source: Ester, Kriegel, Sander, Xu: A density-based algorithm for discovering clusters (1996) */
function cluster(distances: readonly (readonly number[])[], radius: number, visited: Set<number>, clustered: Set<number>): number[][] {
  const neighboursOf = (point: number) => distances[point].flatMap((far, i) => (i !== point && far <= radius ? [i] : []));
  const clusters: number[][] = [];
  for (let point = 0; point < distances.length; point++) {
    if (visited.has(point)) continue;
    visited.add(point);
    const neighbours = neighboursOf(point);
    if (neighbours.length < neighboursMin) continue;
    const members = [point];
    clustered.add(point);
    for (let at = 0; at < neighbours.length; at++) {
      const next = neighbours[at];
      if (!visited.has(next)) {
        visited.add(next);
        const further = neighboursOf(next);
        if (further.length >= neighboursMin) neighbours.push(...further.filter((i) => !neighbours.includes(i)));
      }
      if (clustered.has(next)) continue;
      clustered.add(next);
      members.push(next);
    }
    clusters.push(members);
  }
  return clusters;
}

/** Chunks that nine images of ten have; the first row of each. */
function sharedChunks(images: readonly (readonly ChunkRow[])[]): ChunkRow[] {
  const counts = new Map<string, { row: ChunkRow; count: number }>();
  for (const rows of images) {
    for (const row of new Map([...rows].reverse().map((each) => [each.digest, each])).values()) {
      const known = counts.get(row.digest);
      if (known) known.count++;
      else counts.set(row.digest, { row, count: 1 });
    }
  }
  return [...counts.values()].filter(({ count }) => count >= imagesShareMin * images.length).map(({ row }) => row);
}

/** Of each image the chunks that its versions keep, by the threshold that leaves the least of the test set; of equal ones the largest. */
function selectAcrossVersions(
  train: readonly ChunkRow[],
  test: readonly ChunkRow[],
  clusters: readonly Cluster[],
): Map<string, ChunkRow[]> {
  const points = [...group(train, ({ image }) => image)].map(([image, rows]) => {
    const known = clusters
      .filter(({ images }) => images.includes(image))
      .flatMap(({ dictionary }) => dictionary.map(({ digest }) => digest));
    return [image, smooth(without(rows, new Set(known)))] as const;
  });
  let best = new Map<string, ChunkRow[]>();
  let bestScore = Number.POSITIVE_INFINITY;
  for (let threshold = thresholds.from; threshold <= thresholds.to; threshold += step) {
    const chosen = new Map(
      points.map(([image, scored]) => {
        const rows = new Map(scored.filter(({ score }) => score > threshold).map(({ row }) => [row.digest, row]));
        return [image, [...rows.values()].sort((a, b) => (a.digest < b.digest ? -1 : 1))];
      }),
    );
    const digests = new Map([...chosen].map(([image, rows]) => [image, new Set(rows.map(({ digest }) => digest))]));
    const score = bytesOf(test.filter(({ image, digest }) => !digests.get(image)?.has(digest)));
    if (score > bestScore) continue;
    best = chosen;
    bestScore = score;
  }
  return best;
}

/** Exponential smoothing over the rows of an image: how steadily chunks were in the version before. */
export function smooth(rows: readonly ChunkRow[]): Array<{ row: ChunkRow; score: number }> {
  const versions = [...group(rows, ({ version }) => version).values()];
  let before: ReadonlySet<string> | undefined;
  let score = 0;
  const scored: Array<{ row: ChunkRow; score: number }> = [];
  for (const version of versions) {
    for (const row of version) {
      score = before === undefined ? 0 : 0.5 * (before.has(row.digest) ? 1 : 0) + 0.5 * score;
      scored.push({ row, score });
    }
    before = new Set(version.map(({ digest }) => digest));
  }
  return scored;
}

/** A blob is taken whole: whoever uses one chunk of it has it anyway. */
function wholeBlobs(rows: readonly ChunkRow[], chosen: readonly ChunkRow[]): ChunkRow[] {
  const blobs = new Set(chosen.map(({ blobId }) => blobId));
  const unique = new Map<string, ChunkRow>();
  for (const row of [...chosen, ...rows.filter(({ blobId }) => blobs.has(blobId))]) {
    const key = JSON.stringify(Object.values(row));
    if (!unique.has(key)) unique.set(key, row);
  }
  return [...unique.values()];
}

function without(rows: readonly ChunkRow[], digests: ReadonlySet<string>): ChunkRow[] {
  return rows.filter(({ digest }) => !digests.has(digest));
}

function bytesOf(rows: readonly ChunkRow[]): number {
  return rows.reduce((sum, { compressedSize }) => sum + compressedSize, 0);
}

function group(rows: readonly ChunkRow[], keyOf: (row: ChunkRow) => string): Map<string, ChunkRow[]> {
  const groups = new Map<string, ChunkRow[]>();
  for (const row of rows) {
    const key = keyOf(row);
    const known = groups.get(key);
    if (known) known.push(row);
    else groups.set(key, [row]);
  }
  return groups;
}

function numbersOf(version: string): number[] {
  return (version.match(/[0-9]+/g) ?? []).map(Number);
}

function compareNumbers(a: readonly number[], b: readonly number[]): number {
  for (let i = 0; i < Math.min(a.length, b.length); i++) if (a[i] !== b[i]) return a[i] - b[i];
  return a.length - b.length;
}
