/* GELU in its tanh form and its derivative, while a product's tile is in registers.
 * 0.5 (1 + tanh u) is the logistic function of 2u, so one exponential is enough. */

/* Of a NaN it makes a number: whoever uses it multiplies it by x again. */
INLINE vf gelu_logistic(vf x) {
  vf twice_u = x * (1.59576912160573071f + 0.0713548162726009f * (x * x));
  return 1.0f / (1.0f + vexp_between(vclamp_exponent(-twice_u)));
}

INLINE vf gelu_value(vf x) { return x * gelu_logistic(x); }

/* The derivative where GELU is x * s. */
INLINE vf gelu_slope(vf x, vf s) {
  vf twice_du = 1.59576912160573071f + 0.2140644488178027f * (x * x);
  return s + x * s * (twice_du - twice_du * s);
}
