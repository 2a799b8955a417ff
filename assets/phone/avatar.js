// Prepares a picture as WeChat's avatar chooser would: small and square.

const SIDE = 192;
const MAX_BYTES = 64 * 1024;

function square(bitmap) {
  const canvas = document.createElement('canvas');
  canvas.width = SIDE;
  canvas.height = SIDE;
  const cut = Math.min(bitmap.width, bitmap.height);
  canvas.getContext('2d').drawImage(
    bitmap,
    (bitmap.width - cut) / 2, (bitmap.height - cut) / 2, cut, cut,
    0, 0, SIDE, SIDE,
  );
  return canvas;
}

/**
 * @returns `body`, what to send: the file as it is when it is small enough,
 * else a smaller one; and `preview`, a canvas, because the page's policy
 * allows no pictures from blobs
 */
export async function prepareAvatar(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    // Not a picture that this browser knows: the service shall judge it.
    return { body: file, preview: null };
  }
  const preview = square(bitmap);
  bitmap.close();
  if (file.size <= MAX_BYTES) return { body: file, preview };
  const body = await new Promise((done) => preview.toBlob(done, 'image/jpeg', 0.86));
  return { body, preview };
}
