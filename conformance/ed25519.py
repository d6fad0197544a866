"""Ed25519 (RFC 8032), verified strictly: canonical encodings, no point of small order, the equation without cofactor.

    verify(key, signature, message)                        # bytes, all three

Slow, and not for secrets: it does not sign.
"""
import hashlib

P = 2 ** 255 - 19
L = 2 ** 252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT = pow(2, (P - 1) // 4, P)                             # of -1
ZERO = 0, 1, 1, 0                                          # points are (X, Y, Z, T): x = X/Z, y = Y/Z, xy = T/Z

def add(p, q):
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * D * p[3] * q[3] % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P

def multiply(n, point):
    result = ZERO
    while n:
        if n & 1:
            result = add(result, point)
        point, n = add(point, point), n >> 1
    return result

def equal(p, q):
    return (p[0] * q[2] - q[0] * p[2]) % P == (p[1] * q[2] - q[1] * p[2]) % P == 0

def decode(data):
    """§5.1.3, or None."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (1 << 255) - 1
    if y >= P:
        return None
    u, v = y * y - 1, D * y * y + 1
    x = u * v ** 3 * pow(u * v ** 7, (P - 5) // 8, P) % P
    if (v * x * x + u) % P == 0:
        x = x * ROOT % P
    if (v * x * x - u) % P or x == 0 and sign:
        return None
    x = P - x if x & 1 != sign else x
    return x, y, 1, x * y % P

BASE = decode((4 * pow(5, -1, P) % P).to_bytes(32, "little"))

def small(point):
    return equal(multiply(8, point), ZERO)

def verify(key, signature, message):
    a, r, s = decode(key), decode(signature[:32]), int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= L or small(a) or small(r):
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % L
    return equal(multiply(s, BASE), add(r, multiply(k, a)))
