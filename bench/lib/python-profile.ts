/**
 * Files that `python3 -c 'print("hello")'` reads in the Debian image of `debianPythonImage`, for the image's prefetch table. Found by
 * unpacking the image onto a tmpfs with strictatime, running the command in a chroot, and listing the files read since
 * (`find -type f -anewer`). On another architecture the libraries have other names and are left out of the table.
 */
export const pythonProfile: readonly string[] = [
  "/usr/bin/python3.11",
  "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
  "/etc/ld.so.cache",
  "/usr/lib/x86_64-linux-gnu/libm.so.6",
  "/usr/lib/x86_64-linux-gnu/libz.so.1.2.13",
  "/usr/lib/x86_64-linux-gnu/libexpat.so.1.8.10",
  "/usr/lib/x86_64-linux-gnu/libc.so.6",
  "/usr/lib/locale/C.utf8/LC_CTYPE",
  "/usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache",
  "/usr/lib/python3.11/encodings/__pycache__/__init__.cpython-311.pyc",
  "/usr/lib/python3.11/encodings/__pycache__/aliases.cpython-311.pyc",
  "/usr/lib/python3.11/encodings/__pycache__/utf_8.cpython-311.pyc",
  "/usr/lib/python3/dist-packages/distutils-precedence.pth",
  "/usr/lib/python3/dist-packages/_distutils_hack/__pycache__/__init__.cpython-311.pyc",
  "/usr/lib/python3.11/__pycache__/sitecustomize.cpython-311.pyc",
  "/usr/share/zoneinfo/Etc/UTC",
];
