/* GELU in its tanh form and its derivative, as the epilogues of a product use them.
 * 0.5 (1 + tanh u) is the logistic function of 2u, so one exponential is enough. */

/* Of a NaN it makes a number: both uses below multiply it by x again. */
INLINE vf gelu_logistic(vf x) {
  vf twice_u = x * (1.59576912160573071f + 0.0713548162726009f * (x * x));
  return 1.0f / (1.0f + vexp_between(vclamp_exponent(-twice_u)));
}

INLINE vf gelu_value(vf x) { return x * gelu_logistic(x); }

INLINE vf gelu_derivative(vf x) {
  vf s = gelu_logistic(x);
  vf twice_du = 1.59576912160573071f + 0.2140644488178027f * (x * x);
  return s + x * twice_du * (s * (1.0f - s));
}
